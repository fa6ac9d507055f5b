//! A flame graph as one SVG file without scripts. A browser shows the text of a box as a tooltip.

use crate::tree::Tree;
use std::fmt::Write;

/// The most boxes of a flame graph. The narrowest are left out first.
pub const SVG_BOXES_MAX: usize = 10_000;

/// The width of the graph, in pixels.
const WIDTH: f64 = 1_200.0;

/// The space around the boxes.
const MARGIN: f64 = 10.0;

/// The height of a row of boxes.
const ROW: f64 = 18.0;

/// The height of the title, with the line below it.
const HEAD: f64 = 54.0;

/// The narrowest box that is drawn, in pixels.
const NARROWEST: f64 = 0.3;

/// The width of a character of the font, at most, in pixels.
const CHARACTER: f64 = 7.3;

/// A box of the graph.
struct Flame<'a> {
    name: &'a str,
    fuel: u64,
    depth: usize,
    /// Where it begins, in fuel.
    from: u64,
}

/// Returns the flame graph of a tree. The root is at the top, and the width of a box is the fuel of a function with
/// everything that it called.
#[must_use]
pub fn svg(tree: &Tree, title: &str) -> String {
    let total = tree.total();
    let scale = (WIDTH - 2.0 * MARGIN) / (total.max(1) as f64);
    let mut flames = flames(tree, (NARROWEST / scale) as u64);
    if flames.len() > SVG_BOXES_MAX {
        flames.sort_by_key(|flame| std::cmp::Reverse(flame.fuel));
        flames.truncate(SVG_BOXES_MAX);
    }
    let rows = flames.iter().map(|flame| flame.depth + 1).max().unwrap_or(1);
    let height = HEAD + ROW * rows as f64 + MARGIN;
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\">\n\
         <style>\n\
         text {{ font: 12px \"DejaVu Sans Mono\", Menlo, Consolas, monospace; fill: #1a1a1a; }}\n\
         .title {{ font: bold 15px \"DejaVu Sans\", Helvetica, Arial, sans-serif; }}\n\
         .note {{ font: 12px \"DejaVu Sans\", Helvetica, Arial, sans-serif; fill: #555; }}\n\
         rect {{ stroke: #fff; stroke-width: 0.5; }}\n\
         g:hover > rect {{ stroke: #000; stroke-width: 1; }}\n\
         </style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text class=\"title\" x=\"{MARGIN}\" y=\"22\">{}</text>\n\
         <text class=\"note\" x=\"{MARGIN}\" y=\"42\">{} fuel; the width of a box is the fuel of a function with all that \
         it called; hold the pointer over a box for its name</text>\n",
        escaped(title),
        grouped(total),
    );
    for Flame { name, fuel, depth, from } in flames {
        let (x, width) = (MARGIN + from as f64 * scale, fuel as f64 * scale);
        let y = HEAD + ROW * depth as f64;
        let share = 100.0 * fuel as f64 / total.max(1) as f64;
        let color = color(name);
        let (full, visible) = (escaped(name), escaped(&fitting(name, width)));
        let (text_x, text_y, height) = (x + 3.0, y + 13.0, ROW - 1.0);
        writeln!(
            text,
            "<g><title>{full}: {} fuel, {share:.2} %</title><rect x=\"{x:.2}\" y=\"{y}\" width=\"{width:.2}\" \
             height=\"{height}\" rx=\"2\" fill=\"{color}\"/>{}</g>",
            grouped(fuel),
            match visible.is_empty() {
                true => String::new(),
                false => format!("<text x=\"{text_x:.2}\" y=\"{text_y}\">{visible}</text>"),
            },
        )
        .expect("a string takes everything");
    }
    text + "</svg>\n"
}

/// Returns the boxes that are wide enough, callers first, and siblings by name.
fn flames(tree: &Tree, fuel_min: u64) -> Vec<Flame<'_>> {
    let (totals, callees) = (tree.totals(), tree.callees());
    let mut flames = Vec::new();
    let mut open = vec![(Tree::ROOT, 0, 0)];
    while let Some((stack, depth, from)) = open.pop() {
        let index = Tree::index(stack);
        let name = if stack == Tree::ROOT { "all" } else { tree.name(stack) };
        flames.push(Flame { name, fuel: totals[index], depth, from });
        let mut next = from;
        for callee in &callees[index] {
            let fuel = totals[Tree::index(*callee)];
            if fuel > fuel_min {
                open.push((*callee, depth + 1, next));
                next += fuel;
            }
        }
    }
    flames
}

/// Returns as much of a name as fits into a box, or nothing.
fn fitting(name: &str, width: f64) -> String {
    let room = ((width - 6.0) / CHARACTER).max(0.0) as usize;
    let length = name.chars().count();
    match room {
        room if length <= room => name.to_owned(),
        0..=3 => String::new(),
        room => name.chars().take(room - 2).chain("..".chars()).collect(),
    }
}

/// Returns a warm color that depends on the name alone.
fn color(name: &str) -> String {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let (green, blue) = (150 + hash % 70, 90 + (hash >> 8) % 60);
    // Not every viewer of SVG knows other notations.
    format!("#f8{green:02x}{blue:02x}")
}

/// Returns a text for XML. Characters that XML cannot have become question marks.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('?'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Returns a number with a comma after every three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_have_names_and_tooltips_that_cannot_break_the_file() {
        let mut tree = Tree::default();
        for (names, fuel) in [(&["main"][..], 1_000), (&["main", "Vec<u8>::push & \"co\"\u{1b}"], 3_000)] {
            let stack = tree.stack(names.iter().copied());
            tree.add(stack, fuel);
        }
        let text = svg(&tree, "<counter>");
        assert!(text.contains(">&lt;counter&gt;</text>"), "{text}");
        assert!(
            text.contains("<title>Vec&lt;u8&gt;::push &amp; &quot;co&quot;?: 3,000 fuel, 75.00 %</title>"),
            "{text}"
        );
        assert_eq!(text.matches("<g>").count(), 3);
        assert_eq!(text.matches("<g>").count(), text.matches("</g>").count());
    }

    #[test]
    fn a_wide_tree_has_a_bounded_file() {
        let mut tree = Tree::default();
        for index in 0..60_000 {
            let stack = tree.stack(["main", &format!("f{index}")].into_iter());
            tree.add(stack, 1);
        }
        assert_eq!(svg(&tree, "wide").matches("<g>").count(), 2, "all others are too narrow");
        // Boxes that are just wide enough, in four rows.
        let mut tree = Tree::default();
        for index in 0..3_000 {
            let stack = tree.stack([format!("f{index}").as_str(), "a", "b", "c"].into_iter());
            tree.add(stack, 1);
        }
        let text = svg(&tree, "wide and deep");
        assert!(text.matches("<g>").count() == SVG_BOXES_MAX && text.len() < 4 << 20, "{}", text.len());
        assert!(svg(&Tree::default(), "empty").ends_with("</svg>\n"));
    }
}
