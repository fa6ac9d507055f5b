//! Reads single answers from the journal with as few bytes as possible.
//!
//! A frame can only be checked as a whole, and may be long. So an index that points to an answer has a check of its own
//! for it.

use super::RelocatedAnswer;
use super::record::{ANSWER_START_BYTES_MAX, AnswerCheck, body_of, decode_answer};
use lifeboat_api::name::Name;
use lifeboat_journal::frame::{RECORD_BYTES_MAX, RECORD_LENGTH_BYTES};
use lifeboat_journal::reader::{ReadError, Reader};
use lifeboat_journal::recovery::Location;
use lifeboat_journal::storage::StorageFile;
use std::io;
use std::ops::Range;

/// The bytes of an answer's record that are read at first. They are the whole record, unless its body or its answer is
/// long.
pub const ANSWER_READ_BYTES: usize = 384;

/// The maximum length of neighbouring answers that are read at once, in bytes.
pub const ANSWERS_READ_BYTES_MAX: usize = 64 * 1024;

const _: () = assert!(RECORD_LENGTH_BYTES + ANSWER_START_BYTES_MAX <= ANSWER_READ_BYTES);

/// The location of an answer, and a check that the answer is there.
#[derive(Debug, Clone, Copy)]
pub struct AnswerPlace {
    /// The location of the answer's record.
    pub location: Location,
    /// The check of that record.
    pub check: AnswerCheck,
}

impl AnswerPlace {
    /// Returns the offset of the record in the file of its segment.
    fn offset(&self) -> u64 {
        u64::from(self.location.frame_offset) + u64::from(self.location.record_offset)
    }
}

/// A reader of a service's answers. It reads neither the bodies of their transactions nor the other records in their
/// frames: the bytes read are proportional to the answers.
pub(super) struct AnswerReader<'a> {
    reader: &'a Reader,
    service: &'a Name,
    /// The open segment, and its file.
    file: Option<(u64, Box<dyn StorageFile>)>,
    /// The bytes that were read from it last.
    ahead: Vec<u8>,
    /// The range of these bytes in the file. They are fewer if the file ends before.
    ahead_at: Range<u64>,
    /// The number of bytes that were read.
    read_bytes: usize,
}

impl<'a> AnswerReader<'a> {
    pub(super) fn new(reader: &'a Reader, service: &'a Name) -> Self {
        Self { reader, service, file: None, ahead: Vec::new(), ahead_at: 0..0, read_bytes: 0 }
    }

    /// Returns whether the start of this record was already read with an earlier one.
    fn has_ahead(&self, place: &AnswerPlace) -> bool {
        self.file.as_ref().is_some_and(|(segment, _)| *segment == place.location.segment)
            && self.ahead_at.start <= place.offset()
            && place.offset() + ANSWER_READ_BYTES as u64 <= self.ahead_at.end
    }

    /// Reads answers in order until `budget` bytes were read or one cannot be read. Returns that error. Neighbouring
    /// answers are read at once, and each byte only once.
    pub(super) fn read_all(
        mut self,
        places: &[AnswerPlace],
        budget: usize,
    ) -> (Vec<RelocatedAnswer>, Result<(), ReadError>) {
        let mut answers = Vec::new();
        for (index, place) in places.iter().enumerate() {
            // Bytes that were read ahead are used now, so that they need not be read again.
            if self.read_bytes >= budget && !self.has_ahead(place) {
                break;
            }
            match self.read(&places[index..]) {
                Ok(answer) => answers.push(answer),
                Err(error) => return (answers, Err(error)),
            }
        }
        (answers, Ok(()))
    }

    /// Reads the first of some answers, and reads ahead for those that follow closely. Its segment may be reclaimed and
    /// rewritten meanwhile: the check prevents that its new contents are taken for the answer.
    pub(super) fn read(&mut self, places: &[AnswerPlace]) -> Result<RelocatedAnswer, ReadError> {
        let Some(place) = places.first() else { return Err(ReadError::Gone) };
        if !self.has_ahead(place) {
            self.read_ahead(places)?;
        }
        let Some((_, file)) = &self.file else { return Err(ReadError::Gone) };
        let offset = place.offset();
        let start = usize::try_from(offset - self.ahead_at.start).ok().and_then(|skipped| self.ahead.get(skipped..));
        let (length, start) = start.and_then(<[u8]>::split_first_chunk).ok_or(ReadError::Damaged)?;
        let record_bytes = u32::from_le_bytes(*length) as usize;
        let start = &start[..start.len().min(record_bytes)];
        let body = body_of(start).filter(|body| body.bytes.end <= record_bytes && record_bytes <= RECORD_BYTES_MAX);
        let body = body.ok_or(ReadError::Damaged)?;
        let mut read = Vec::new();
        let end = if start.len() == record_bytes {
            &start[body.bytes.end..]
        } else {
            read.resize(record_bytes - body.bytes.end, 0);
            let end_offset = offset + (RECORD_LENGTH_BYTES + body.bytes.end) as u64;
            self.read_bytes += read.len();
            file.read_exact_at(end_offset, &mut read).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => ReadError::Damaged,
                _ => ReadError::Storage(error),
            })?;
            &read[..]
        };
        decode_answer(self.service, &place.check, start, &body, end).ok_or(ReadError::Damaged)
    }

    /// Reads the start of the first of some records, and of the records after it as long as there is no gap between
    /// them.
    fn read_ahead(&mut self, places: &[AnswerPlace]) -> Result<(), ReadError> {
        let Some(first) = places.first() else { return Ok(()) };
        let segment = first.location.segment;
        let offset = first.offset();
        let mut end = offset + ANSWER_READ_BYTES as u64;
        for place in &places[1..] {
            let (begins, ends) = (place.offset(), place.offset() + ANSWER_READ_BYTES as u64);
            let is_close = place.location.segment == segment && (offset..=end).contains(&begins);
            if !is_close || ends - offset > ANSWERS_READ_BYTES_MAX as u64 {
                break;
            }
            end = end.max(ends);
        }
        let file = match self.file.take().filter(|(open, _)| *open == segment) {
            Some((_, file)) => file,
            None => self.reader.open(segment)?,
        };
        self.ahead.resize(usize::try_from(end - offset).unwrap_or(ANSWERS_READ_BYTES_MAX), 0);
        let mut count = 0;
        while count < self.ahead.len() {
            match file.read_at(offset + count as u64, &mut self.ahead[count..]) {
                Ok(0) => break,
                Ok(more) => count += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ReadError::Storage(error)),
            }
        }
        self.ahead.truncate(count);
        self.read_bytes += count;
        (self.ahead_at, self.file) = (offset..end, Some((segment, file)));
        Ok(())
    }
}
