//! An HTTP client as light as `pgbench` and `redis-benchmark`: a connection that is kept alive, with one request in
//! flight. It writes the head unchanged and parses only the needed parts of an answer.

use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The number of bytes that are read at once.
const READ_BYTES: usize = 16 * 1024;

/// A connection that is kept alive.
pub(crate) struct Connection {
    stream: TcpStream,
    sent: Vec<u8>,
    received: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, sent: Vec::new(), received: Vec::new() })
    }

    /// Sends a request and returns the status and the body of its answer. `head` contains its first lines, each with
    /// its line end; the length of the body is added.
    pub(crate) async fn exchange(&mut self, head: fmt::Arguments<'_>, body: &[u8]) -> io::Result<(u16, &[u8])> {
        self.sent.clear();
        write!(self.sent, "{head}Content-Length: {}\r\n\r\n", body.len())?;
        self.sent.extend_from_slice(body);
        self.stream.write_all(&self.sent).await?;

        self.received.clear();
        let mut answer = None;
        loop {
            if self.received.capacity() - self.received.len() < READ_BYTES {
                self.received.reserve(READ_BYTES);
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
            }
            if answer.is_none() {
                answer = scan(&self.received)?;
            }
            if let Some((status, start, end)) = answer
                && self.received.len() >= end
            {
                return Ok((status, &self.received[start..end]));
            }
        }
    }
}

/// Returns the status of an answer and the range of its body, or `None` before its head is complete.
fn scan(received: &[u8]) -> io::Result<Option<(u16, usize, usize)>> {
    const LENGTH: &[u8] = b"content-length:";
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, String::from_utf8_lossy(received).into_owned());
    let Some(end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { return Ok(None) };
    let head = &received[..end];
    let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok().and_then(|text| text.trim().parse::<usize>().ok());
    let status = head.get(9..12).and_then(number).and_then(|status| u16::try_from(status).ok()).ok_or_else(wrong)?;
    let mut lines = head.split(|byte| *byte == b'\n');
    let length = lines.find_map(|line| {
        let (name, value) = line.split_at_checked(LENGTH.len())?;
        name.eq_ignore_ascii_case(LENGTH).then_some(value)
    });
    let length = match length {
        Some(length) => number(length).ok_or_else(wrong)?,
        None if status == 204 => 0,
        None => return Err(wrong()),
    };
    Ok(Some((status, end + 4, end + 4 + length)))
}
