//! Reads frames and records while the log appends.

use super::frame::{BLOCK_BYTES, BodyError, FrameHeader, FrameKey, HEADER_BYTES_MAX, decode_header};
use super::segment_header::segment_name;
use crate::storage::{Storage, StorageFile};
use std::io;
use std::sync::Arc;
use thiserror::Error;

/// Reads the segments of a journal while the log appends. It checks a frame as a whole. A caller that needs a single
/// record and has its own check for it reads the record from its segment.
#[derive(Debug, Clone)]
pub struct Reader {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) key: FrameKey,
}

/// The reason why a record cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The segment was truncated.
    #[error("the record is no longer in the journal")]
    Gone,
    /// The bytes differ from those that were written.
    #[error("the record is damaged")]
    Damaged,
    /// The storage failed.
    #[error("cannot read the journal")]
    Storage(#[source] io::Error),
}

impl From<BodyError> for ReadError {
    fn from(_: BodyError) -> Self {
        Self::Damaged
    }
}

impl Reader {
    /// Reads record `number` of `service` at `location`, and checks its whole frame.
    #[cfg(test)]
    pub(crate) fn record(
        &self,
        service: &lifeboat_api::name::Name,
        number: super::frame::RecordNumber,
        location: super::recovery::Location,
    ) -> Result<Vec<u8>, ReadError> {
        let (header, frame) = self.frame(&*self.open(location.segment)?, location.frame_offset)?;
        let runs = header.runs.iter().zip(super::frame::decode_body(&header, &frame)?);
        let mut records = runs.filter(|(run, _)| run.service == *service).flat_map(|(_, records)| records);
        let record = records.find(|record| record.offset == location.record_offset && record.number == number);
        record.map(|record| record.bytes.to_vec()).ok_or(ReadError::Gone)
    }

    /// Opens a segment whose contents the caller knows.
    ///
    /// # Errors
    /// [`ReadError::Gone`] if there is no such segment, [`ReadError::Storage`] if it cannot be opened.
    pub fn open(&self, segment: u64) -> Result<Box<dyn StorageFile>, ReadError> {
        self.storage.open(&segment_name(segment)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ReadError::Gone,
            _ => ReadError::Storage(error),
        })
    }

    /// Reads a frame of a segment, and checks its header only.
    pub(crate) fn frame(&self, file: &dyn StorageFile, frame_offset: u32) -> Result<(FrameHeader, Vec<u8>), ReadError> {
        let rest = file.bytes().map_err(ReadError::Storage)?.saturating_sub(u64::from(frame_offset));
        let rest = usize::try_from(rest).unwrap_or(usize::MAX);
        // Most frames are short: begin with a block.
        let mut frame = vec![0; rest.min(BLOCK_BYTES)];
        file.read_exact_at(u64::from(frame_offset), &mut frame).map_err(ReadError::Storage)?;
        let mut header = decode_header(&self.key, &frame);
        if header.is_err() {
            frame.resize(rest.min(HEADER_BYTES_MAX), 0);
            file.read_exact_at(u64::from(frame_offset), &mut frame).map_err(ReadError::Storage)?;
            header = decode_header(&self.key, &frame);
        }
        let header = header.map_err(|_| ReadError::Damaged)?;
        if header.frame_bytes > rest {
            return Err(ReadError::Damaged);
        }
        let read_bytes = frame.len().min(header.frame_bytes);
        frame.resize(header.frame_bytes, 0);
        let offset = u64::from(frame_offset) + read_bytes as u64;
        file.read_exact_at(offset, &mut frame[read_bytes..]).map_err(ReadError::Storage)?;
        Ok((header, frame))
    }
}
