import { useQueryClient } from "@tanstack/react-query";
import { type FormEvent, type ReactNode, useId, useState, useSyncExternalStore } from "react";
import { Button } from "../components/Button";
import { Notice } from "../components/Notice";
import { heldToken, isTokenWanted, keepToken, subscribeToToken } from "../lib/token";
import { useFeedStore } from "../lib/use-feed";
import styles from "./TokenGate.module.css";

/** Shows its children, or a place for the token once the sidecar has asked for one. */
export function TokenGate({ children }: { children: ReactNode }) {
  return useSyncExternalStore(subscribeToToken, isTokenWanted) ? <TokenForm /> : children;
}

function TokenForm() {
  const queries = useQueryClient();
  const store = useFeedStore();
  const [isRefused, setIsRefused] = useState(false);
  const [id, hintId] = [useId(), useId()];

  const submit = (event: FormEvent<HTMLFormElement>): void => {
    event.preventDefault();
    const text = new FormData(event.currentTarget).get("token");
    const isKept = typeof text === "string" && keepToken(text);
    setIsRefused(!isKept);
    if (!isKept) return;
    void queries.resetQueries();
    store.retryNow();
  };

  return (
    <Notice title={heldToken() === null ? "This sidecar asks for a token" : "This token does not open the sidecar"}>
      <form className={styles.form} onSubmit={submit}>
        <label htmlFor={id}>Token</label>
        <input
          id={id}
          name="token"
          type="password"
          autoComplete="off"
          spellCheck={false}
          required
          aria-describedby={hintId}
          aria-invalid={isRefused}
        />
        <Button type="submit">Open</Button>
      </form>
      <p id={hintId} role={isRefused ? "alert" : undefined}>
        {isRefused
          ? "A token holds letters, digits and . _ ~ + - only: is this the whole line of the file?"
          : "Ask who runs the sidecar for the content of its --token-file. It is kept until this tab is closed."}
      </p>
    </Notice>
  );
}
