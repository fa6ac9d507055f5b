//! Recognises WebAssembly text and parses it.

use super::convert::survive;
use super::error::{LoadError, one_line};

/// Returns whether `bytes` are UTF-8 whose first token, after blanks and comments, is `(`.
pub(super) fn is_text(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let mut rest = text.trim_start_matches('\u{feff}').trim_start();
    loop {
        if let Some(comment) = rest.strip_prefix(";;") {
            rest = comment.split_once('\n').map_or("", |(_, rest)| rest).trim_start();
        } else if rest.starts_with("(;") {
            let Some(after) = skip_block_comment(rest) else {
                // The comment is never closed. This is still text, and the parser's message reports where the comment
                // began.
                return true;
            };
            rest = after.trim_start();
        } else {
            return rest.starts_with('(');
        }
    }
}

/// Skips one block comment, which may contain others, and returns the rest.
fn skip_block_comment(text: &str) -> Option<&str> {
    let (mut depth, mut position, bytes) = (0_u32, 0, text.as_bytes());
    while position + 1 < bytes.len() {
        match &bytes[position..position + 2] {
            b"(;" => (depth, position) = (depth.saturating_add(1), position + 2),
            b";)" => (depth, position) = (depth.saturating_sub(1), position + 2),
            _ => position += 1,
        }
        if depth == 0 {
            // Both bytes of the token are ASCII, so this is a character boundary.
            return Some(&text[position..]);
        }
    }
    None
}

/// Parses `bytes`, for which [`is_text`] is true, into a binary.
pub(super) fn parse(file: &str, bytes: &[u8]) -> Result<Vec<u8>, LoadError> {
    let parsed = survive(|| match wat::parse_bytes(bytes) {
        Ok(binary) => Ok(binary.into_owned()),
        Err(cause) => Err(cause.to_string()),
    });
    parsed.map_err(|rendered| {
        let (line, column) = position(&rendered).unwrap_or((0, 0));
        // The first line is the message and the others draw the place. The parser does not draw long lines.
        let first = rendered.lines().next().unwrap_or_default();
        let cause = one_line(first.split(&format!(" at {NO_PATH}")).next().unwrap_or_default());
        LoadError::Text { file: one_line(file), line, column, cause }
    })
}

/// The parser's name for a text without a path.
const NO_PATH: &str = "<anon>:";

/// Finds `<anon>:LINE:COLUMN` in the parser's message.
fn position(rendered: &str) -> Option<(u32, u32)> {
    let (_, place) = rendered.split_once(NO_PATH)?;
    let mut parts = place.split(|char: char| !char.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}
