// Draws a rotation as SVG: the angle of every pair at every position, and beside it how long each pair takes to turn once.
import * as vega from "vega";
import * as vegaLite from "vega-lite";

/** What there is to draw. */
export interface Rotation {
  readonly title: string;
  readonly subtitle: string;
  /** The positions drawn, rising from 1; the last only ends the axis. */
  readonly positions: readonly number[];
  /** [positions, pairs]: the angles, from -pi to pi. */
  readonly angles: ArrayLike<number>;
  /** Radians per position of each pair. */
  readonly frequencies: ArrayLike<number>;
  /** The same before the model's rule changed it, where it did. */
  readonly unscaled?: ArrayLike<number> | undefined;
  /** Lengths to mark on the axis of wavelengths. */
  readonly marks: readonly { readonly label: string; readonly position: number }[];
}

type Layer = Extract<vegaLite.TopLevelSpec, { layer: unknown }>["layer"][number];

const ink = "#262335";
const quiet = "#6f6b80";
const accent = "#b8405e";
// From -pi to pi and back to the same colour: light where a pair points where it did at position 0, dark where it points backwards.
const cycle = ["#2a1b3d", "#2c4a8a", "#3f8fc0", "#a9d4da", "#f6f2ea", "#f3bd8b", "#d9634d", "#8d2f5b", "#2a1b3d"];
const lengthAxis = {
  values: Array.from({ length: 16 }, (_, power) => 10 ** power),
  labelExpr: "datum.value < 1e4 ? format(datum.value, ',') : replace(format(datum.value, '~s'), 'G', 'B')",
};
const steps = 48;

/** Positions from 1 to `last`, closer than the next by 3.5 % where integers allow. */
export function drawnPositions(last: number): number[] {
  const positions = [1];
  for (let octave = 1; (positions.at(-1) ?? last) < last; ++octave) {
    const next = Math.min(last, Math.round(2 ** (octave / 20)));
    if (next > (positions.at(-1) ?? 0)) positions.push(next);
  }
  return positions;
}

/** An SVG document. */
export async function drawRotation(rotation: Rotation): Promise<string> {
  const view = new vega.View(vega.parse(vegaLite.compile(specification(rotation)).spec), { renderer: "none" });
  try {
    return await view.toSVG();
  } finally {
    view.finalize();
  }
}

function specification(rotation: Rotation): vegaLite.TopLevelSpec {
  const pairs = rotation.frequencies.length;
  const height = Math.max(240, Math.min(448, pairs * 7));
  const y = { domain: [0, pairs], reverse: true, nice: false, zero: false };
  return {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json",
    background: "white",
    padding: 20,
    title: {
      text: rotation.title,
      subtitle: rotation.subtitle,
      anchor: "start",
      fontSize: 20,
      subtitleFontSize: 13,
      subtitleColor: quiet,
      color: ink,
      offset: 18,
    },
    spacing: 28,
    hconcat: [
      {
        width: 560,
        height,
        layer: [
          heatmap(rotation),
          note("turns too fast to draw", { x: 546, y: 22, align: "right" }),
          note("has hardly moved", { x: 14, y: height - 16, align: "left" }),
        ],
        encoding: { y: { type: "quantitative", scale: y, axis: { title: "pair of channels", tickCount: 8 } } },
      },
      {
        width: 250,
        height,
        layer: [...marks(rotation), ...wavelengths(rotation)],
        encoding: { y: { type: "quantitative", scale: y, axis: { labels: false, ticks: false, title: null, tickCount: 8 } } },
      },
    ],
    config: {
      font: "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif",
      view: { stroke: null },
      axis: {
        labelColor: quiet,
        titleColor: ink,
        titleFontWeight: 500,
        titleFontSize: 12,
        titlePadding: 10,
        gridColor: "#ece9f0",
        domainColor: "#c9c5d3",
        tickColor: "#c9c5d3",
      },
      legend: { labelColor: quiet, titleColor: ink, titleFontWeight: 500, titleFontSize: 12 },
    },
  };
}

function heatmap(rotation: Rotation): Layer {
  return {
    data: { values: cells(rotation) },
    mark: { type: "rect", aria: false },
    encoding: {
      x: {
        field: "from",
        type: "quantitative",
        scale: { type: "log", nice: false },
        axis: { ...lengthAxis, title: "position of the token", grid: false },
      },
      x2: { field: "to" },
      y: { field: "pair", type: "quantitative" },
      y2: { field: "next" },
      color: {
        field: "angle",
        type: "quantitative",
        scale: { domain: cycle.map((_, i) => Math.PI * (i / 4 - 1)), range: cycle },
        legend: {
          title: "angle",
          orient: "bottom",
          direction: "horizontal",
          gradientLength: 240,
          gradientThickness: 10,
          values: [-Math.PI, -Math.PI / 2, 0, Math.PI / 2, Math.PI],
          labelExpr: "{'-2': '−π', '-1': '−π/2', '0': '0', '1': 'π/2', '2': 'π'}[toString(round(datum.value / PI * 2))]",
        },
      },
    },
  };
}

function note(text: string, place: { x: number; y: number; align: "left" | "right" }): Layer {
  return {
    data: { values: [{}] },
    mark: { type: "text", text, fontSize: 12, fontStyle: "italic", fill: quiet, baseline: "middle", align: place.align },
    encoding: { x: { value: place.x }, y: { value: place.y } },
  };
}

// One rectangle for each stretch in which a pair's angle stays within a step of the colours: slow pairs need few. A row ends where its pair
// turns by more than a sixth of a turn from one column to the next: colours would only show the raster.
function cells({ angles, positions, frequencies }: Rotation): object[] {
  const pairs = frequencies.length;
  const last = positions.length - 1;
  const rectangles: object[] = [];
  for (let pair = 0; pair < pairs; ++pair) {
    const speed = Math.abs(frequencies[pair] ?? 0);
    const tooFast = positions.findIndex((position, column) =>
      column < last && ((positions[column + 1] ?? 0) - position) * speed > Math.PI / 3
    );
    const end = tooFast < 0 ? last : tooFast;
    const step = (column: number): number => Math.round((angles[column * pairs + pair] ?? 0) / (2 * Math.PI) * steps);
    for (let from = 0; from < end;) {
      let to = from + 1;
      while (to < end && step(to) === step(from)) ++to;
      rectangles.push({ pair, next: pair + 1, from: positions[from], to: positions[to], angle: step(from) / steps * 2 * Math.PI });
      from = to;
    }
  }
  return rectangles;
}

function wavelengths({ frequencies, unscaled }: Rotation): Layer[] {
  const points = (values: ArrayLike<number>): { pair: number; wavelength: number }[] =>
    Array.from(values, (frequency, pair) => ({ pair: pair + 0.5, wavelength: 2 * Math.PI / frequency })).filter((point) =>
      Number.isFinite(point.wavelength)
    );
  const curve = (values: ArrayLike<number>, mark: object): Layer => ({
    data: { values: points(values) },
    mark: { type: "line", ...mark },
    encoding: { x: wavelength, y: { field: "pair", type: "quantitative" }, order: { field: "pair" } },
  });
  const line = curve(frequencies, { stroke: accent, strokeWidth: 2.5 });
  if (unscaled === undefined) return [line];
  const label: Layer = {
    data: { values: points(unscaled).slice(Math.floor(unscaled.length * 0.97)).slice(0, 1) },
    mark: { type: "text", text: "unscaled", align: "right", dx: -10, fontSize: 11, fill: quiet },
    encoding: { x: wavelength, y: { field: "pair", type: "quantitative" } },
  };
  return [curve(unscaled, { stroke: quiet, strokeDash: [4, 3], strokeWidth: 1.5 }), line, label];
}

const wavelength = {
  field: "wavelength",
  type: "quantitative",
  scale: { type: "log", nice: false },
  axis: { ...lengthAxis, title: "tokens to turn once" },
} as const;

function marks({ marks }: Rotation): Layer[] {
  const data = { values: marks.map(({ label, position }) => ({ label, wavelength: position })) };
  return [
    { data, mark: { type: "rule", stroke: "#bdb8c9", strokeWidth: 1 }, encoding: { x: wavelength } },
    {
      data,
      mark: { type: "text", angle: 270, align: "right", baseline: "bottom", dx: -6, dy: -3, fontSize: 11, fill: quiet },
      encoding: { x: wavelength, y: { value: 0 }, text: { field: "label" } },
    },
  ];
}
