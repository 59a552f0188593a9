import { CodeBlock } from "../../components/CodeBlock";
import { Notice } from "../../components/Notice";
import { ASK_WITH_CURL, ASK_WITH_OPENAI, LAUNCH_SERVER } from "./how-to-ask";

/** Nothing stored yet: how to get the first tokens. */
export function FirstVisit() {
  return (
    <Notice title="No request has been fingerprinted yet">
      <p>
        Each answer of the model server shows up here while it is being written. This page is listening; to get one:
      </p>
      <p>1. Serve a model with attention capture:</p>
      <CodeBlock label="Model server" code={LAUNCH_SERVER} />
      <p>2. Ask it something, with the attention of each token in the answer:</p>
      <CodeBlock label="curl" code={ASK_WITH_CURL} />
      <CodeBlock label="Python, OpenAI client" code={ASK_WITH_OPENAI} />
    </Notice>
  );
}
