/** The guide's three mends, in its words. */
export function NoClusters() {
  return (
    <section data-testid="no-clusters">
      <p>
        <strong>No clusters detected</strong>
      </p>
      <ol>
        <li>Run discovery job to create clusters</li>
        <li>Reload sidecar or restart it</li>
        <li>Check sidecar logs for errors</li>
      </ol>
    </section>
  );
}
