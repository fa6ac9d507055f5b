//! Passwords of users, from the terminal or from standard input.

use super::super::UsageError;
use lifeboat_api::access::{PASSWORD_BYTES_MAX, PASSWORD_CHARS_MAX};
use std::io::{self, BufRead, Read};

/// A source of passwords: the terminal, without showing them, or standard input, one on a line.
pub(crate) struct Passwords {
    pub(crate) from_stdin: bool,
}

impl Passwords {
    /// Reads the next password.
    pub(crate) fn ask(&self, whose: &str) -> anyhow::Result<String> {
        if !self.from_stdin {
            let prompt = format!("{whose}: ");
            return rpassword::prompt_password(prompt).map_err(|error| {
                let text = format!(
                    "there is no terminal to ask for a password ({error}): use --password-stdin, and write the \
                     password to standard input"
                );
                UsageError(text).into()
            });
        }
        Ok(password_line(&mut io::stdin().lock(), whose)?)
    }

    /// Reads a new password. On a terminal, it must be typed twice.
    pub(crate) fn choose(&self, whose: &str) -> anyhow::Result<String> {
        let password = self.ask(whose)?;
        if !self.from_stdin && self.ask("Repeat the password")? != password {
            return Err(UsageError("the two passwords differ; start over".into()).into());
        }
        Ok(password)
    }
}

/// Reads the next line of an input as a password.
fn password_line(input: &mut impl BufRead, whose: &str) -> Result<String, UsageError> {
    let mut line = Vec::new();
    // The limit includes the end of the line, and one more byte that shows that the line is too long.
    let read = input.take(PASSWORD_BYTES_MAX as u64 + 3).read_until(b'\n', &mut line);
    read.map_err(|error| {
        UsageError(format!("'{whose}' cannot be read from standard input: {error}; write it there, on its own line"))
    })?;
    let password = line.strip_suffix(b"\n").unwrap_or(&line);
    let password = password.strip_suffix(b"\r").unwrap_or(password);
    if password.is_empty() {
        let text = format!("'{whose}' is required, and standard input has no line for it; write it there");
        return Err(UsageError(text));
    }
    let is_too_long = |is_long| {
        let text = format!(
            "'{whose}': the line on standard input is longer than {PASSWORD_CHARS_MAX} characters, the limit of a \
             password; choose a shorter one"
        );
        if is_long { Err(UsageError(text)) } else { Ok(()) }
    };
    // The part read of such a line may end within a character.
    is_too_long(password.len() > PASSWORD_BYTES_MAX)?;
    let text = str::from_utf8(password).map_err(|_| {
        UsageError(format!("'{whose}': the line on standard input is not UTF-8 text; write the password in UTF-8"))
    })?;
    is_too_long(text.chars().count() > PASSWORD_CHARS_MAX)?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_lines_of_text_up_to_the_longest() {
        let longest = "\u{1f600}".repeat(PASSWORD_CHARS_MAX);
        let mut input = io::Cursor::new(format!("one two\r\n{longest}\r\n{longest}y\n"));
        assert_eq!(password_line(&mut input, "Password").expect("a line"), "one two");
        assert_eq!(password_line(&mut input, "Password").expect("a line"), longest);
        let error =
            |input: &[u8]| password_line(&mut io::Cursor::new(input), "Password").expect_err("none").to_string();
        let long = error(format!("{longest}y\n").as_bytes());
        assert!(long.contains("longer than 1024 characters") && long.ends_with("choose a shorter one"), "{long}");
        assert!(error(&[b'x'; 1_025]).contains("longer than 1024 characters"));
        assert!(error(&[b'x'; 100_000]).contains("longer than 1024 characters"));
        assert!(error(b"\xff\xfe\n").ends_with("is not UTF-8 text; write the password in UTF-8"));
        assert!(error(b"").ends_with("has no line for it; write it there"));
    }
}
