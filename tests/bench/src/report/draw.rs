//! Bar charts in SVG, legible on light and dark backgrounds.

use std::fmt::Write as _;

use super::number::{Scale, ratio};
use super::table::OURS;
use crate::finding::{Better, Spread};

const WIDTH: f64 = 800.0;
const MARGIN: f64 = 16.0;
/// Where bars begin; the names of systems are to the left.
const BARS: f64 = 116.0;
/// The length of the longest bar. Its label is to the right.
const LONGEST: f64 = 440.0;
const BAR: f64 = 13.0;
const STEP: f64 = 17.0;
const HEAD: f64 = 58.0;
const HEADING: f64 = 26.0;
const LABEL: f64 = 20.0;
const GAP: f64 = 10.0;
/// Groups whose longest bars differ by more than this get a scale each: else the small ones cannot be seen.
const SCALES_DIFFER: f64 = 6.0;
/// A range is cut at this multiple of the largest median of its group: an outlier must not make the bars unreadable.
const RANGE: f64 = 1.5;

/// Colours that remain distinct for any colour vision (Okabe and Ito), for light and for dark backgrounds.
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

/// Groups of bars with one unit.
#[derive(Clone, Debug)]
pub struct Panel {
    /// The heading; empty for none.
    pub heading: &'static str,
    /// The unit of all values.
    pub scale: Scale,
    /// Which direction is better.
    pub better: Option<Better>,
    /// The groups, one for each load.
    pub groups: Vec<Group>,
}

/// The bars of one load.
#[derive(Clone, Debug)]
pub struct Group {
    /// The load.
    pub load: String,
    /// The bars, ours first.
    pub bars: Vec<Bars>,
}

/// The bar of one system, with the range of its values.
#[derive(Clone, Debug)]
pub struct Bars {
    /// The system.
    pub system: &'static str,
    /// The values.
    pub spread: Spread,
}

/// Draws panels below each other.
pub fn draw(title: &str, panels: &[Panel]) -> String {
    let mut content = String::new();
    let mut y = HEAD;
    for panel in panels {
        panel.draw(&mut content, &mut y);
    }
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" role="img" aria-labelledby="title desc">
<title id="title">{}</title>
<desc id="desc">{}</desc>
<style>{}</style>
<rect class="page" width="{WIDTH}" height="{y}" rx="6"/>
"#,
        escape(title),
        escape(&panels.iter().map(Panel::describe).collect::<Vec<_>>().join(" ")),
        style()
    );
    let better = match panels.first().and_then(|panel| panel.better) {
        Some(Better::Higher) => "higher is better",
        _ => "lower is better",
    };
    let own_scales = if panels.iter().any(Panel::has_own_scales) { "; each load has its own scale" } else { "" };
    line(&mut svg, MARGIN, 26.0, "title", title);
    line(
        &mut svg,
        MARGIN,
        44.0,
        "faint",
        &format!("median and range (cut if long) of all turns; {better}{own_scales}"),
    );
    svg + &content + "</svg>\n"
}

impl Panel {
    fn draw(&self, svg: &mut String, y: &mut f64) {
        if !self.heading.is_empty() {
            line(svg, MARGIN, *y + 14.0, "heading", self.heading);
            *y += HEADING;
        }
        let (most, own_scales) = (self.groups.iter().map(Group::longest).fold(0.0, f64::max), self.has_own_scales());
        for group in &self.groups {
            let longest = if own_scales { group.longest() } else { most };
            line(svg, MARGIN, *y + 13.0, "load", &group.load);
            *y += LABEL;
            for bars in &group.bars {
                self.bar(svg, group, bars, LONGEST / longest.max(f64::MIN_POSITIVE), *y);
                *y += STEP;
            }
            *y += GAP;
        }
    }

    fn bar(&self, svg: &mut String, group: &Group, bars: &Bars, scale: f64, y: f64) {
        let Bars { system, spread } = bars;
        let x = |value: f64| BARS + (value.max(0.0) * scale).min(LONGEST);
        let (end, middle) = (x(spread.median), y + BAR / 2.0);
        let name = if *system == OURS { "ours end" } else { "name end" };
        line(svg, BARS - 8.0, y + 10.5, name, system);
        let width = (end - BARS).max(1.0);
        let class = slug(system);
        // Writing to a string cannot fail.
        let _ = writeln!(svg, r#"<rect class="{class}" x="{BARS}" y="{y}" width="{width:.1}" height="{BAR}" rx="2"/>"#);
        if spread.min < spread.max {
            let (from, to) = (x(spread.min), x(spread.max));
            let _ = writeln!(svg, r#"<path class="range" d="M{from:.1} {middle}H{to:.1}"/>"#);
        }
        let value = self.scale.with_unit(spread.median);
        let ours = group.bars.iter().find(|bars| bars.system == OURS).filter(|_| *system != OURS);
        let label = match ours.map(|ours| ours.spread.median / spread.median).filter(|ratio| ratio.is_finite()) {
            Some(quotient) => format!("{value} · {OURS} {}", ratio(quotient)),
            None => value,
        };
        let class = if *system == OURS { "ours" } else { "name" };
        line(svg, end.max(x(spread.max)) + 7.0, y + 10.5, class, &label);
    }

    fn has_own_scales(&self) -> bool {
        let longest = || self.groups.iter().map(Group::longest);
        longest().fold(0.0, f64::max) > longest().fold(f64::INFINITY, f64::min) * SCALES_DIFFER
    }

    /// The values as text.
    fn describe(&self) -> String {
        let mut text = String::new();
        for group in &self.groups {
            let value = |bars: &Bars| format!("{} {}", bars.system, self.scale.with_unit(bars.spread.median));
            let heading = if self.heading.is_empty() { String::new() } else { format!("{}, ", self.heading) };
            let values = group.bars.iter().map(value).collect::<Vec<_>>().join(", ");
            let _ = write!(text, "{heading}{}: {values}. ", group.load);
        }
        text.trim_end().to_owned()
    }
}

impl Group {
    fn longest(&self) -> f64 {
        let largest = |of: fn(&Spread) -> f64| self.bars.iter().map(|bars| of(&bars.spread)).fold(0.0, f64::max);
        largest(|spread| spread.max).min(largest(|spread| spread.median) * RANGE)
    }
}

fn line(svg: &mut String, x: f64, y: f64, class: &str, content: &str) {
    let _ = writeln!(svg, r#"<text class="{class}" x="{x:.1}" y="{y}">{}</text>"#, escape(content));
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
         .title{{font-size:15px;font-weight:600}}.heading{{font-size:13px;font-weight:600}}\
         .load{{font-size:12px}}.ours{{font-weight:600}}\
         .end{{text-anchor:end}}.faint,.name{{fill:#57606a}}.page{{fill:#fff}}\
         .range{{stroke:#1f2328;stroke-opacity:.55;stroke-width:1.5}}{}\
         @media(prefers-color-scheme:dark){{text{{fill:#e6edf3}}.faint,.name{{fill:#9da7b3}}.page{{fill:#0d1117}}\
         .range{{stroke:#e6edf3}}{}}}",
        colours(false),
        colours(true)
    )
}

fn slug(text: &str) -> String {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-").to_lowercase()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
