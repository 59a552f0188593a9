import { ZONE_MEANINGS, type Zone } from "../lib/zones";

/** What a zone means, in the guide's words. */
export function ZoneTip({ zone }: { zone: Zone }) {
  const { characteristics, examples } = ZONE_MEANINGS[zone];
  return (
    <>
      <strong>{zone}</strong>
      {`: ${characteristics}. Seen in ${examples}.`}
    </>
  );
}
