// Pictures: what all of them look like, and how a Vega-Lite specification becomes an SVG. The same specification gives the same bytes.
import * as vega from "vega";
import * as vegaLite from "vega-lite";

/** The part that every specification begins with. The background is white, so that a picture can be read on a dark page too. */
export const look = {
  $schema: "https://vega.github.io/schema/vega-lite/v6.json",
  background: "white",
  padding: 20,
  config: { font: "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif", view: { stroke: null } },
} as const;

/** How the title of a picture stands above it. */
export const titleLook = { anchor: "start", fontSize: 18, subtitleFontSize: 12, offset: 16 } as const;

/** The SVG of a specification. */
export async function svg(specification: vegaLite.TopLevelSpec): Promise<string> {
  const view = new vega.View(vega.parse(vegaLite.compile(specification).spec), { renderer: "none" });
  try {
    return await view.toSVG();
  } finally {
    view.finalize();
  }
}
