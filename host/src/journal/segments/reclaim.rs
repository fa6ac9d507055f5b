//! Gives space back: which segments may go, and what is carried so that they can.

use super::{Failure, Log, LogError, spare_name};
use crate::journal::frame::{RecordNumber, RunKind, Staged, decode_body};
use crate::journal::reader::ReadError;
use crate::journal::recovery::{Location, Standing, segment_name};
use crate::name::Name;
use std::collections::{BTreeMap, BTreeSet};

/// The part of a segment that may be carried to free one, as a divisor: 1/4.
const CARRIED_SHARE: u64 = 4;

/// What [`Log::reclaim`] did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Reclaimed {
    /// Segments that were given up.
    pub segments: u64,
    /// Records that are elsewhere now: their service, number, and where they are.
    pub moved: Vec<(Name, RecordNumber, Location)>,
    /// Services that pin the oldest segment which is left with more than can be carried. Once they need less, it can
    /// go.
    pub pinned_by: Vec<Name>,
    /// Bytes of the segments that are left.
    pub segment_bytes_left: u64,
    /// Whether the oldest segment which is left is damaged, and stays for a service that is not sound.
    pub is_damaged: bool,
}

impl Log {
    /// Gives up the oldest segments, as far as nobody needs them. `needed` says of each service which record is the
    /// first that it still needs; a service that it leaves out needs all.
    ///
    /// # Errors
    /// [`LogError::FrameFull`] if records are staged: commit them first. [`LogError::Poisoned`].
    pub fn reclaim(&mut self, needed: &BTreeMap<Name, RecordNumber>) -> Result<Reclaimed, LogError> {
        self.check()?;
        if !self.builder.is_empty() {
            return Err(LogError::FrameFull);
        }
        let mut reclaimed = Reclaimed::default();
        let result = self.try_reclaim(needed, &mut reclaimed);
        result.map_err(|failure| self.poison(failure))?;
        reclaimed.segment_bytes_left = self.segments.iter().map(|segment| segment.file_bytes).sum();
        Ok(reclaimed)
    }

    fn try_reclaim(&mut self, needed: &BTreeMap<Name, RecordNumber>, reclaimed: &mut Reclaimed) -> Result<(), Failure> {
        // Segments that carrying begins are left for the next time, or it might never end.
        let active = self.segments.back().map_or(0, |active| active.number);
        while let Some(oldest) = self.segments.front().filter(|oldest| oldest.number < active) {
            if oldest.is_damaged && self.services.values().any(|kept| kept.standing != Standing::Sound) {
                reclaimed.is_damaged = true;
                return Ok(());
            }
            let is_pinning = |name: &Name, last| needed.get(name).is_none_or(|first| last >= *first);
            let pins: Vec<Name> = oldest
                .shares
                .iter()
                .filter(|(name, share)| is_pinning(name, share.last))
                .map(|(name, _)| name.clone())
                .collect();
            if pins.is_empty() {
                // What the segments that stay say of each service must reach to its end.
                if self.roster_segment.is_none_or(|roster| roster <= oldest.number) {
                    self.write_roster()?;
                }
                self.retire_oldest()?;
                reclaimed.segments += 1;
                continue;
            }
            let too_much = self.too_much_to_carry(&pins);
            if !too_much.is_empty() {
                reclaimed.pinned_by = too_much;
                return Ok(());
            }
            // What cannot be read stays where it is: the next start tells whom it concerns.
            let Ok(records) = self.read_needed(&pins, needed) else {
                reclaimed.pinned_by = pins;
                reclaimed.is_damaged = true;
                return Ok(());
            };
            let Some(staged) = self.stage_carried(records) else {
                reclaimed.pinned_by = pins;
                return Ok(());
            };
            self.make_room()?;
            for segment in &mut self.segments {
                segment.shares.retain(|service, _| !pins.contains(service));
            }
            let header = self.builder.finish(&self.key, self.position, self.previous, &mut self.buffer);
            let committed = self.write_frame(header)?;
            let moved = staged.into_iter().map(|(service, number, place)| (service, number, committed.location(place)));
            reclaimed.moved.extend(moved);
        }
        Ok(())
    }

    /// Which of the services that pin a segment must first need less of the journal: those that are not sound, and
    /// those with the most records until the rest can be carried.
    fn too_much_to_carry(&self, pins: &[Name]) -> Vec<Name> {
        let is_sound = |name: &Name| self.services.get(name).is_some_and(|kept| kept.standing == Standing::Sound);
        let bytes_of = |name: &Name| {
            let shares = self.segments.iter().filter_map(|segment| segment.shares.get(name));
            shares.map(|share| share.bytes).sum::<u64>()
        };
        let mut too_much: Vec<Name> = pins.iter().filter(|name| !is_sound(name)).cloned().collect();
        let sound = pins.iter().filter(|name| is_sound(name));
        let mut sound: Vec<(u64, &Name)> = sound.map(|name| (bytes_of(name), name)).collect();
        sound.sort_unstable();
        let mut sum: u64 = sound.iter().map(|(bytes, _)| bytes).sum();
        while sum > self.options.segment_bytes / CARRIED_SHARE
            && let Some((bytes, name)) = sound.pop()
        {
            sum -= bytes;
            too_much.push(name.clone());
        }
        too_much
    }

    /// Reads all records of some services that are still needed, in their order.
    fn read_needed(
        &self,
        services: &[Name],
        needed: &BTreeMap<Name, RecordNumber>,
    ) -> Result<Vec<(Name, RecordNumber, Vec<u8>)>, ReadError> {
        let mut records: BTreeMap<(&Name, RecordNumber), Vec<u8>> = BTreeMap::new();
        let reader = self.reader();
        for segment in &self.segments {
            let of_segment = services.iter().filter_map(|name| segment.shares.get(name));
            let offsets: BTreeSet<u32> = of_segment.flat_map(|share| share.frame_offsets.iter().copied()).collect();
            for offset in offsets {
                let (header, frame) = reader.frame(segment.number, offset)?;
                for (run, run_records) in header.runs.iter().zip(decode_body(&header, &frame)?) {
                    let Some(service) = services.iter().find(|name| **name == run.service) else { continue };
                    if run.kind == RunKind::Begin {
                        records.retain(|(of, _), _| *of != service);
                    }
                    let first = needed.get(service).copied().unwrap_or_default();
                    for record in run_records.iter().filter(|record| record.number >= first) {
                        records.insert((service, record.number), record.bytes.to_vec());
                    }
                }
            }
        }
        Ok(records.into_iter().map(|((service, number), bytes)| (service.clone(), number, bytes)).collect())
    }

    /// Adds all needed records of some services to the next frame once more, so that nothing hangs on their old
    /// copies: all of them or none, since a part is no use to a reader.
    fn stage_carried(
        &mut self,
        records: Vec<(Name, RecordNumber, Vec<u8>)>,
    ) -> Option<Vec<(Name, RecordNumber, Staged)>> {
        let mut staged = Vec::with_capacity(records.len());
        for (service, number, record) in records {
            let Ok(place) = self.builder.push(RunKind::Carried, &service, number, &record) else {
                self.builder.clear();
                return None;
            };
            staged.push((service, number, place));
        }
        Some(staged)
    }

    /// Gives up the oldest segment, which is not the active one.
    fn retire_oldest(&mut self) -> Result<(), Failure> {
        let Some(oldest) = self.segments.pop_front() else { return Ok(()) };
        let name = segment_name(oldest.number);
        let is_spare = oldest.file_bytes == self.options.segment_bytes && self.spares.len() < self.options.spares_max;
        let spare = spare_name(oldest.number);
        let result = if is_spare { self.storage.rename(&name, &spare) } else { self.storage.remove(&name) };
        result
            .and_then(|()| self.storage.sync_directory())
            .map_err(|source| Failure { action: "give up a segment", source })?;
        if is_spare {
            self.spares.push(spare);
        }
        Ok(())
    }
}
