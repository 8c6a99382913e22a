#include "experiments/report_style.h"

namespace espalier {

const char* const kReportStyle = R"css(
:root {
  color-scheme: light dark;
  --page: #f6f7f4; --card: #ffffff; --ink: #1d2420; --soft: #5d6a62; --line: #dfe4dd;
  --leaf: #2f7d4f; --leaf-pale: #cfe3d4; --gone: #d9dcd6; --gold: #b07a1e; --sky: #3469a8;
  --clay: #b0503a; --good: #2f7d4f; --bad: #b3261e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #121613; --card: #1a201c; --ink: #e6ebe6; --soft: #97a49b; --line: #2c352f;
    --leaf: #6cc08b; --leaf-pale: #2a4635; --gone: #333b36; --gold: #e0b062; --sky: #7fb0ea;
    --clay: #e59079; --good: #6cc08b; --bad: #ff8a80;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; -webkit-text-size-adjust: 100%;
}
main { max-width: 1120px; margin: 0 auto; padding: 36px 28px 64px; }
header { display: flex; gap: 18px; align-items: flex-start; margin-bottom: 26px; }
header svg { width: 58px; flex: none; color: var(--leaf); margin-top: 4px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.015em; }
h2 { font-size: 18px; margin: 44px 0 4px; letter-spacing: -0.005em; }
h2 + p, .lead { color: var(--soft); margin: 0 0 14px; max-width: 76ch; }
header p { margin: 0; color: var(--soft); }
code, .mono { font: 12.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.card {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 18px 20px;
}
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(175px, 1fr)); gap: 14px; }
.fact h3 {
  margin: 0; font-size: 12px; font-weight: 600; color: var(--soft); text-transform: uppercase;
  letter-spacing: 0.06em;
}
.fact .big { font-size: 31px; line-height: 1.25; font-weight: 650; letter-spacing: -0.02em; white-space: nowrap; }
.fact p { margin: 2px 0 0; color: var(--soft); font-size: 13.5px; }
.good { color: var(--good); } .bad { color: var(--bad); }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 14px; }
.pair > :only-child { max-width: 640px; }
.bars { display: grid; gap: 9px; }
.bar { display: grid; grid-template-columns: minmax(110px, 190px) 1fr minmax(150px, auto); gap: 14px; align-items: center; }
.bar .track { position: relative; height: 16px; background: color-mix(in srgb, var(--line) 55%, transparent); border-radius: 4px; }
.bar .track i { position: absolute; inset: 0 auto 0 0; background: var(--soft); border-radius: 4px; opacity: .55; }
.bar.ours .track i { background: var(--leaf); opacity: 1; }
.bar.step .track i { background: var(--leaf); opacity: .5; }
.bar.control .track i { background: var(--clay); opacity: .6; }
.bar .track b { position: absolute; top: 50%; height: 8px; margin-top: -4px; border: solid var(--ink); border-width: 0 1.5px; }
.bar .track b::after { content: ""; position: absolute; left: 0; right: 0; top: 3px; border-top: 1.5px solid var(--ink); }
.bar .value { font-size: 14px; white-space: nowrap; }
.bar .value small { color: var(--soft); }
.bar.ours .name, .bar.ours .value { font-weight: 600; }
.columns { display: flex; gap: 12px; min-height: 190px; }
.run { flex: 1 1 0; min-width: 10px; display: flex; flex-direction: column; }
.set { flex: 1; display: flex; gap: 2px; align-items: stretch; }
.column { flex: 1 1 0; min-width: 1px; background: var(--gone); border-radius: 3px; position: relative; overflow: hidden; }
.column i { position: absolute; inset: auto 0 0 0; background: var(--leaf); }
.column:hover i { filter: brightness(1.15); }
.run small { color: var(--soft); padding-top: 6px; font-size: 12px; text-align: center; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
figure { margin: 0; }
figcaption { font-weight: 600; font-size: 14px; display: flex; flex-wrap: wrap; gap: 2px 14px; margin-bottom: 8px; justify-content: space-between; }
.legend { display: inline-flex; flex-wrap: wrap; gap: 2px 14px; font-weight: 400; font-size: 12.5px; color: var(--soft); }
.key { display: inline-flex; align-items: center; gap: 6px; }
.key i { width: 12px; height: 3px; border-radius: 2px; background: currentColor; }
.key i.gone { background: var(--gone); }
.plot { position: relative; }
.plot svg { width: 100%; height: auto; display: block; }
.grid { stroke: var(--line); } .axis { stroke: var(--soft); opacity: .6; }
.tick { fill: var(--soft); font-size: 12px; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.s0 { stroke: var(--leaf); } .s1 { stroke: var(--sky); } .s2 { stroke: var(--gold); } .s3 { stroke: var(--clay); }
.key .s0 { background: var(--leaf); } .key .s1 { background: var(--sky); } .key .s2 { background: var(--gold); } .key .s3 { background: var(--clay); }
.dot { fill: var(--card); stroke-width: 1.8; }
rect.kept { fill: var(--leaf); } rect.removed { fill: var(--gone); }
.cursor { stroke: var(--soft); stroke-dasharray: 3 3; visibility: hidden; }
.tip {
  position: fixed; z-index: 9; pointer-events: none; background: var(--ink); color: var(--page);
  font-size: 12.5px; line-height: 1.45; padding: 6px 10px; border-radius: 7px; white-space: pre; display: none;
}
.scroll { overflow-x: auto; } .scroll table { min-width: 480px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; font-size: 12.5px; }
tr:last-child td { border-bottom: 0; }
td.n, th.n { text-align: right; white-space: nowrap; }
td.whole { white-space: nowrap; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 5px 18px; margin: 0; font-size: 14px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
ul.notes { margin: 0; padding-left: 18px; } ul.notes li { margin: 5px 0; max-width: 88ch; }
details { margin-top: 12px; } summary { cursor: pointer; font-weight: 600; }
details .scroll { margin-top: 10px; }
.check { display: inline-block; width: 1.2em; }
footer { color: var(--soft); font-size: 13px; margin-top: 44px; border-top: 1px solid var(--line); padding-top: 14px; }
@media (max-width: 640px) {
  main { padding: 20px 14px 40px; }
  header svg { width: 40px; } h1 { font-size: 22px; }
  .card { padding: 14px; }
  .cards { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 10px; }
  .fact .big { font-size: 22px; }
  .fact p { font-size: 12.5px; }
  .bar { grid-template-columns: 1fr auto; gap: 3px 10px; }
  .bar .track { grid-column: 1 / -1; grid-row: 2; height: 12px; }
  .columns { gap: 6px; min-height: 150px; } .set { gap: 1px; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 8px; }
}
@media print {
  :root { --page: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #ccc; }
  body { font-size: 11pt; } main { max-width: none; padding: 0; }
  .card, figure { break-inside: avoid; } h2 { break-after: avoid; margin-top: 22px; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
)css";

const char* const kReportScript = R"js(
(() => {
  const tip = document.body.appendChild(document.createElement("div"));
  tip.className = "tip";
  const show = (event, text) => {
    tip.textContent = text;
    tip.style.display = "block";
    const box = tip.getBoundingClientRect();
    const right = event.clientX + 14 + box.width < innerWidth;
    tip.style.left = Math.max(4, right ? event.clientX + 14 : event.clientX - box.width - 14) + "px";
    tip.style.top = Math.min(innerHeight - box.height - 4, event.clientY + 14) + "px";
  };
  const hide = () => { tip.style.display = "none"; };
  for (const column of document.querySelectorAll("[data-tip]")) {
    column.addEventListener("pointermove", event => show(event, column.dataset.tip));
    column.addEventListener("pointerleave", hide);
  }
  for (const plot of document.querySelectorAll("[data-plot]")) {
    const data = JSON.parse(plot.dataset.plot);
    const cursor = plot.querySelector(".cursor");
    const width = plot.querySelector("svg").viewBox.baseVal.width;
    const text = value => data.percent ? (100 * value).toFixed(2) + " %" : value.toPrecision(4);
    plot.addEventListener("pointermove", event => {
      const box = plot.getBoundingClientRect();
      const share = ((event.clientX - box.left) / box.width - data.left) / (data.right - data.left);
      const wanted = data.low + share * (data.high - data.low);
      const points = data.series.flatMap(s => s.values.map(v => v[0]));
      const x = points.reduce((a, b) => Math.abs(b - wanted) < Math.abs(a - wanted) ? b : a);
      const at = data.left + (data.right - data.left) * (data.high > data.low ? (x - data.low) / (data.high - data.low) : 0);
      cursor.setAttribute("x1", at * width);
      cursor.setAttribute("x2", at * width);
      cursor.style.visibility = "visible";
      const lines = data.series.map(s => [s.name, s.values.find(v => v[0] === x)]).filter(s => s[1]);
      show(event, data.x + " " + x + "\n" + lines.map(s => s[0] + "  " + text(s[1][1])).join("\n"));
    });
    plot.addEventListener("pointerleave", () => { cursor.style.visibility = "hidden"; hide(); });
  }
})();
)js";

const char* const kReportMark =
    "<svg viewBox=\"0 0 64 64\" fill=\"none\" stroke=\"currentColor\" stroke-width=\"4\" "
    "stroke-linecap=\"round\" aria-hidden=\"true\"><path d=\"M32 60V6\"/>"
    "<path d=\"M32 50C20 50 8 48 8 36M32 50c12 0 24-2 24-14\"/>"
    "<path d=\"M32 32C23 32 14 30 14 20M32 32c9 0 18-2 18-12\" opacity=\".75\"/>"
    "<path d=\"M32 16c-5 0-10-1-10-8M32 16c5 0 10-1 10-8\" opacity=\".35\" "
    "stroke-dasharray=\"1 7\"/></svg>";

}  // namespace espalier
