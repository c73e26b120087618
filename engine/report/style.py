"""The report's style sheet: a light and a dark theme by the reader's own setting."""

CSS = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --line: #e3e6eb; --ink: #14181f; --soft: #5b6472; --faint: #eef1f5;
  --one: #2563c9; --two: #d9600f; --good: #177a4b; --bad: #b8321f; --notice: #fff4dd; --notice-line: #e8c26a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0f1216; --card: #181c22; --line: #2a303a; --ink: #e8ecf2; --soft: #98a2b3; --faint: #20252d;
    --one: #6ea2ff; --two: #ff9a52; --good: #57c78d; --bad: #ff7f6b; --notice: #2d2614; --notice-line: #7a6020;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.5;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; }
main { max-width: 1140px; margin: 0 auto; padding: 36px 24px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -.02em; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 44px 0 6px; letter-spacing: -.01em; }
p { margin: 0 0 14px; } .soft { color: var(--soft); } .lead { max-width: 78ch; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 18px 20px; margin: 0; }
.tags { display: flex; flex-wrap: wrap; gap: 8px; margin: 12px 0 22px; }
.tag { background: var(--card); border: 1px solid var(--line); border-radius: 99px; padding: 2px 12px; font-size: 13.5px;
  color: var(--soft); overflow-wrap: anywhere; }
.tag b { color: var(--ink); font-weight: 600; }
.notice { background: var(--notice); border: 1px solid var(--notice-line); border-radius: 10px; padding: 10px 16px;
  margin: 0 0 20px; }
.notice p { margin: 2px 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); gap: 16px; }
.tile .name { font-weight: 600; } .tile .value { font-size: 42px; font-weight: 700; letter-spacing: -.03em; line-height: 1.15; }
.tile.first .value { color: var(--one); } .tile small { display: block; color: var(--soft); font-size: 13px; line-height: 1.4; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(126px, 1fr)); gap: 12px 18px; margin-top: 16px; }
.facts div { border-left: 3px solid var(--line); padding-left: 12px; }
.facts b { display: block; font-size: 18px; } .facts span { color: var(--soft); font-size: 13px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 16px; }
.chart figcaption { display: flex; justify-content: space-between; gap: 12px; flex-wrap: wrap; font-weight: 600; }
.legend { font-weight: 400; font-size: 13px; color: var(--soft); } .legend b { color: var(--ink); margin-right: 10px; }
.key { display: inline-block; width: 14px; height: 4px; border-radius: 2px; margin: 0 5px 3px 4px; }
.key.one { background: var(--one); } .key.two { background: var(--two); }
:not(g) > svg { display: block; width: 100%; height: auto; }
.grid { stroke: var(--line); stroke-width: 1; } .tick, .label { fill: var(--soft); } .tick { font-size: 12px; }
.line { fill: none; stroke-width: 2.2; stroke-linejoin: round; stroke-linecap: round; }
.line.one { stroke: var(--one); } .line.two { stroke: var(--two); }
.dot.one { fill: var(--one); } .dot.two { fill: var(--two); }
.matrix { margin: 0 auto; } .matrix .field { fill: var(--faint); }
.matrix .right { fill: var(--one); } .matrix .wrong { fill: var(--two); }
.matrix .right:hover, .matrix .wrong:hover { stroke: var(--ink); stroke-width: 1.5; }
.share { font-size: 12px; text-anchor: middle; pointer-events: none; } .share.weak { fill: var(--ink); }
.share.strong { fill: var(--card); font-weight: 600; }
.scroll { max-height: 560px; overflow: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; color: var(--soft); font-weight: 600; font-size: 13px; }
.scroll th { position: sticky; top: -18px; background: var(--card); z-index: 1; }
th, td { padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere; }
tr:last-child td { border-bottom: 0; } .num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bar { display: inline-block; width: 150px; height: 8px; border-radius: 4px; background: var(--faint); vertical-align: middle;
  margin-left: 10px; overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--one); border-radius: 4px; }
.clips { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 16px; }
.clip header { display: flex; justify-content: space-between; gap: 10px; margin-bottom: 8px; font-size: 14px; }
.clip .good { color: var(--good); font-weight: 600; } .clip .bad { color: var(--bad); font-weight: 600; }
.pictures { display: flex; align-items: flex-end; gap: 10px; background: #f4f6f9; border-radius: 8px; padding: 8px 10px; }
.pictures svg { height: 130px; width: auto; max-width: 100%; } .moving { flex: none; max-width: 40%; }
.strip { flex: 1; min-width: 0; border-left: 1px solid #dfe3ea; padding-left: 10px; }
.strip svg { height: auto; width: auto; max-height: 142px; margin: 0 auto; }
@media (prefers-reduced-motion: reduce) { .moving { display: none; } }
.pairs { columns: 2; column-gap: 40px; font-size: 14px; } .pairs div { break-inside: avoid; display: flex; gap: 14px;
  justify-content: space-between; border-bottom: 1px solid var(--line);
  padding: 4px 0; }
.pairs span { color: var(--soft); white-space: nowrap; }
.pairs b { font-weight: 500; text-align: right; overflow-wrap: anywhere; }
.timelines { display: grid; gap: 16px; } .timelines .card { padding: 14px 16px; } .timeline .field { fill: var(--faint); }
.timeline .idle, .swatch .idle { fill: var(--line); } .timeline .unknown { fill: none; pointer-events: all; }
.timeline .miss { fill: var(--bad); } .timeline .line { stroke-width: 1.3; }
.timeline [data-row] rect:hover { fill-opacity: .7; } .timeline .number { font-size: 11px; font-weight: 600; text-anchor: middle;
  pointer-events: none; } .timeline .number.dark { fill: #14181f; stroke: #ffffffb3;
  stroke-width: 2.5; paint-order: stroke; } .timeline .number.light { fill: #ffffff; }
.timeline .cursor { stroke: var(--ink); stroke-width: 1.6; } .timeline .paper { fill: #f4f6f9; }
.classes { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 0 0 16px; font-size: 13.5px; overflow-wrap: anywhere; }
.classes > span { display: inline-flex; align-items: center; gap: 6px; }
svg.swatch { width: 18px; height: 14px; flex: none; } svg.definitions { position: absolute; width: 0; height: 0; }
.player { display: flex; align-items: center; gap: 12px; margin-top: 10px; font-size: 14px; } .player input { flex: 1; }
.player button { font: inherit; padding: 2px 14px; } .player[hidden] { display: none; } .said b { font-weight: 600; }
@media (max-width: 720px) { .pairs { columns: 1; } main { padding: 20px 14px; } }
@media print { body { background: #fff; } .scroll { max-height: none; } .card { break-inside: avoid; } }
"""
