//! Tables as pictures: bars for each load, one per system, in SVG that reads in light and dark surroundings.

use std::fmt::Write as _;

use super::number::ratio;
use super::table::{Block, Cell, OURS, Row};
use crate::finding::Better;

/// The quantities that are drawn; of the others the table is enough.
const DRAWN: [&str; 9] = [
    "CPU per request",
    "CPU per GiB",
    "CPU per connection",
    "CPU per exchange",
    "latency",
    "throughput",
    "resident memory",
    "resident memory per connection",
    "memory per connection, inbound",
];
/// The percentile that is drawn; three of each load would be more than one sees.
const PERCENTILE: &str = ": p99";

const WIDTH: f64 = 800.0;
const MARGIN: f64 = 16.0;
/// Where bars begin; before them stand the names of systems.
const BARS: f64 = 116.0;
/// How long the longest is, so that its labels have room behind it.
const LONGEST: f64 = 440.0;
const BAR: f64 = 13.0;
const STEP: f64 = 17.0;
const HEAD: f64 = 58.0;
const LABEL: f64 = 20.0;
const GAP: f64 = 12.0;
/// Loads that differ by more than this get scales of their own: else nobody sees the small ones.
const SCALES_DIFFER: f64 = 6.0;

/// Colours that people with any colour vision tell apart (Okabe and Ito), for light and for dark surroundings.
const COLOURS: [(&str, &str, &str); 8] = [
    (OURS, "#c84e00", "#ff8533"),
    ("floor", "#8a8a8a", "#9e9e9e"),
    ("copy", "#a8a8a8", "#7c8086"),
    ("envoy", "#0072b2", "#56b4e9"),
    ("haproxy", "#b0588a", "#d98ab5"),
    ("haproxy (splice)", "#80306a", "#b06a98"),
    ("nginx", "#008560", "#2fbf96"),
    ("none", "#b8b8b8", "#5f6670"),
];

/// One picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// The scenario that it is of.
    pub scenario: String,
    /// What it says, for those who do not see it.
    pub title: String,
    /// Its file's name.
    pub file: String,
    /// Its content.
    pub svg: String,
}

/// The pictures of these tables.
pub fn charts(blocks: &[Block]) -> Vec<Chart> {
    blocks.iter().filter(|block| DRAWN.contains(&block.quantity.as_str())).filter_map(chart).collect()
}

fn chart(block: &Block) -> Option<Chart> {
    let percentiles = block.rows.iter().any(|row| row.load.ends_with(PERCENTILE));
    let rows: Vec<&Row> = block.rows.iter().filter(|row| !percentiles || row.load.ends_with(PERCENTILE)).collect();
    if rows.is_empty() || rows.iter().map(|row| row.cells.iter().flatten().count()).sum::<usize>() < 2 {
        return None;
    }
    let quantity = if percentiles { format!("{} p99", block.quantity) } else { block.quantity.clone() };
    let title = format!("{}: {quantity}, {}", block.scenario, block.scale.unit);
    let title = title.trim_end_matches(", ").to_owned();
    Some(Chart {
        scenario: block.scenario.clone(),
        file: format!("{}-{}.svg", slug(&block.scenario), slug(&quantity)),
        svg: draw(block, &rows, &title),
        title,
    })
}

fn slug(text: &str) -> String {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-").to_lowercase()
}

fn draw(block: &Block, rows: &[&Row], title: &str) -> String {
    let longest = |row: &Row| row.cells.iter().flatten().map(|cell| cell.most).fold(0.0, f64::max);
    let all: Vec<f64> = rows.iter().map(|row| longest(row)).collect();
    let (most, least) = (all.iter().copied().fold(0.0, f64::max), all.iter().copied().fold(f64::INFINITY, f64::min));
    let own_scales = most > least * SCALES_DIFFER;
    let mut text = String::new();
    let mut y = HEAD;
    for row in rows {
        let scale = LONGEST / if own_scales { longest(row) } else { most }.max(f64::MIN_POSITIVE);
        let load = row.load.strip_suffix(PERCENTILE).unwrap_or(&row.load);
        line(&mut text, MARGIN, y + 13.0, "load", load);
        y += LABEL;
        for (system, cell) in block.systems.iter().zip(&row.cells) {
            let Some(cell) = cell else { continue };
            bar(&mut text, block, row, (system, *cell), scale, y);
            y += STEP;
        }
        y += GAP;
    }
    let (better, scales) = (
        if block.better == Better::Lower { "lower is better" } else { "higher is better" },
        if own_scales { "; each load has a scale of its own" } else { "" },
    );
    let mut all = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" role="img" aria-labelledby="title desc">
<title id="title">{}</title>
<desc id="desc">{}</desc>
<style>{}</style>
<rect class="page" width="{WIDTH}" height="{y}" rx="6"/>
"#,
        escape(title),
        escape(&describe(block, rows)),
        style()
    );
    line(&mut all, MARGIN, 26.0, "title", title);
    line(&mut all, MARGIN, 44.0, "faint", &format!("medians, with the range of all turns; {better}{scales}"));
    all + &text + "</svg>\n"
}

fn bar(text: &mut String, block: &Block, row: &Row, (system, cell): (&str, Cell), scale: f64, y: f64) {
    let (end, middle) = (BARS + cell.median * scale, y + BAR / 2.0);
    let (from, to) = (BARS + cell.least * scale, BARS + cell.most * scale);
    let name = if system == OURS { "ours end" } else { "name end" };
    line(text, BARS - 8.0, y + 10.5, name, system);
    let class = if COLOURS.iter().any(|(known, _, _)| *known == system) { slug(system) } else { "other".into() };
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        r#"<rect class="{class}" x="{BARS}" y="{y}" width="{:.1}" height="{BAR}" rx="2"/>"#,
        (end - BARS).max(1.0)
    );
    if cell.least < cell.most {
        let _ = writeln!(text, r#"<path class="range" d="M{from:.1} {middle}H{to:.1}"/>"#);
    }
    let compared = block.compared.iter().zip(&row.ratios).find(|(other, _)| *other == system);
    let value = block.scale.show(cell.median);
    let label = match compared.and_then(|(_, ratio)| *ratio) {
        Some(compared) => format!("{value} · {OURS} {}", ratio(compared.value)),
        None => value,
    };
    line(text, end.max(to) + 7.0, y + 10.5, if system == OURS { "ours" } else { "name" }, &label);
}

fn line(text: &mut String, x: f64, y: f64, class: &str, content: &str) {
    let _ = writeln!(text, r#"<text class="{class}" x="{x:.1}" y="{y}">{}</text>"#, escape(content));
}

fn style() -> String {
    let colours = |dark: bool| -> String {
        let of = |(system, light, night): &(&str, &str, &str)| {
            format!(".{}{{fill:{}}}", slug(system), if dark { night } else { light })
        };
        COLOURS.iter().map(of).collect()
    };
    format!(
        "text{{font:11px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;fill:#1f2328}}\
         .title{{font-size:15px;font-weight:600}}.load{{font-size:12px;font-weight:600}}.ours{{font-weight:600}}\
         .end{{text-anchor:end}}.faint,.name{{fill:#57606a}}.page{{fill:#fff}}.other{{fill:#6a5acd}}\
         .range{{stroke:#1f2328;stroke-opacity:.55;stroke-width:1.5}}{}\
         @media(prefers-color-scheme:dark){{text{{fill:#e6edf3}}.faint,.name{{fill:#9da7b3}}.page{{fill:#0d1117}}\
         .other{{fill:#9d90f0}}.range{{stroke:#e6edf3}}{}}}",
        colours(false),
        colours(true)
    )
}

/// All of it in words.
fn describe(block: &Block, rows: &[&Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let values = block.systems.iter().zip(&row.cells).filter_map(|(system, cell)| {
            let cell = (*cell)?;
            Some(format!("{system} {}", block.scale.show(cell.median)))
        });
        let _ = write!(text, "{}: {}. ", row.load, values.collect::<Vec<_>>().join(", "));
    }
    text.trim_end().to_owned()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
