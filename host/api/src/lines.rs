//! Requests and replies in lines, the format of `lifeboat run` and of the server's batches.

mod envelope;
mod reply;

pub use envelope::{ENVELOPE_BYTES_MAX, Line, Parsed, parse_envelope, plain, present, wrap};
pub use reply::{
    Form, NotDone, Parts, Payload, as_line, escaped, escaped_text, json_line, json_lines, outcome, parts_of_batch,
    print, print_of_batch,
};
