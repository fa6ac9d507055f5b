//! Reads single records, beside the log that goes on.

use super::frame::{
    BLOCK_BYTES, BodyError, FrameHeader, FrameKey, HEADER_BYTES_MAX, RecordNumber, decode_body, decode_header,
};
use super::recovery::{Location, segment_name};
use crate::storage::{Storage, StorageFile};
use lifeboat_api::name::Name;
use std::io;
use std::sync::Arc;
use thiserror::Error;

/// Reads single records of a journal by their location. It checks the whole frame each time: it is for the rare
/// repetition of a transaction, not for replays.
#[derive(Debug, Clone)]
pub struct Reader {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) key: FrameKey,
}

/// A record cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The segment was given up, or there is no such record in it.
    #[error("the record is no longer in the journal")]
    Gone,
    /// It is not what was written.
    #[error("the frame of the record is damaged")]
    Damaged,
    /// The storage fails.
    #[error("cannot read the journal")]
    Storage(#[source] io::Error),
}

impl From<BodyError> for ReadError {
    fn from(_: BodyError) -> Self {
        Self::Damaged
    }
}

impl Reader {
    /// Reads record `number` of `service` at `location`. Its segment may be given up and written anew meanwhile: what
    /// another service has there then is not taken for it.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn record(&self, service: &Name, number: RecordNumber, location: Location) -> Result<Vec<u8>, ReadError> {
        let (header, frame) = self.frame(&*self.open(location.segment)?, location.frame_offset)?;
        let runs = header.runs.iter().zip(decode_body(&header, &frame)?);
        let mut records = runs.filter(|(run, _)| run.service == *service).flat_map(|(_, records)| records);
        let record = records.find(|record| record.offset == location.record_offset && record.number == number);
        record.map(|record| record.bytes.to_vec()).ok_or(ReadError::Gone)
    }

    /// The same for some records of one frame, in their order.
    ///
    /// # Errors
    /// [`ReadError`] if one of them cannot be read.
    pub fn records(&self, service: &Name, records: &[(RecordNumber, Location)]) -> Result<Vec<Vec<u8>>, ReadError> {
        let Some((_, Location { segment, frame_offset, .. })) = records.first().copied() else { return Ok(Vec::new()) };
        let (header, frame) = self.frame(&*self.open(segment)?, frame_offset)?;
        let runs = header.runs.iter().zip(decode_body(&header, &frame)?);
        let mut found = runs.filter(|(run, _)| run.service == *service).flat_map(|(_, records)| records);
        let bytes = records.iter().map(|(number, location)| {
            let record = found.find(|record| record.offset == location.record_offset && record.number == *number);
            record.map(|record| record.bytes.to_vec()).ok_or(ReadError::Gone)
        });
        bytes.collect()
    }

    /// Opens a segment.
    pub(crate) fn open(&self, segment: u64) -> Result<Box<dyn StorageFile>, ReadError> {
        self.storage.open(&segment_name(segment)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ReadError::Gone,
            _ => ReadError::Storage(error),
        })
    }

    /// Reads a frame of a segment, whose header is good.
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
        frame.resize(header.frame_bytes, 0);
        file.read_exact_at(u64::from(frame_offset), &mut frame).map_err(ReadError::Storage)?;
        Ok((header, frame))
    }
}
