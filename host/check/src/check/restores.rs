//! Restores that a host makes one day: of another version, in other chunks, of a larger state.

use super::Check;
use crate::kind::Kind;
use crate::lab::{Setting, histogram};
use crate::report::Finding;
use crate::trace::{Exported, Trace};
use lifeboat_api::size::{Bytes, grouped};
use lifeboat_vm::instance::MoveError;
use lifeboat_vm::rehydrate::MAINTENANCE_FUEL;
use lifeboat_vm::snapshot::{Section, Snapshot};
use std::sync::Arc;

/// The lengths of the chunks in which a state is restored, and the largest states for which they are tried.
const CHUNKS: [(usize, u64); 3] = [(1, 64 << 10), (7, 1 << 20), (4_096, 256 << 20)];

/// The smallest state whose export is expected to be streamed.
const STREAMED_BYTES_MIN: u64 = 256 << 10;

/// How many times as large a state is that must still be exported and restored within the fuel of maintenance.
const STATE_FACTOR: u32 = 10;

impl Check<'_> {
    /// Checks restores of the last state of a run.
    pub(super) async fn check_restores(
        &mut self,
        last: &Arc<Snapshot>,
        moved: &Trace,
        older: Option<&Arc<Snapshot>>,
    ) -> Result<(), MoveError> {
        self.progress("restores", 0, 1);
        if last.state_bytes() > 0 {
            let next = last.state_version().wrapping_add(1);
            if self.lab().restored(&with_version(last, next)).await.is_ok() {
                let text = format!("restore takes version {next}, and state-version is {}", last.state_version());
                self.report.add(Finding::new(Kind::AnyVersion, text));
            }
        }
        self.check_chunks(last).await?;
        if let Some(older) = older
            && let Err(error) = self.lab().restored(older).await
        {
            let text = format!("a snapshot of version {}: {}", older.state_version(), error.detailed());
            self.report.add(Finding::new(Kind::OlderSnapshot, text));
        }
        self.check_exports(&moved.exports);
        self.progress("restores", 1, 1);
        Ok(())
    }

    async fn check_chunks(&mut self, last: &Arc<Snapshot>) -> Result<(), MoveError> {
        let lab = self.lab();
        let mut usual = lab.restored(last).await?;
        // A guest that cannot export has been found already.
        let Ok((expected, _)) = lab.export(&mut usual, Setting::default(), 0).await else { return Ok(()) };
        drop(usual);
        for (chunk_bytes, state_bytes_max) in CHUNKS {
            if last.state_bytes() > state_bytes_max {
                continue;
            }
            let text = match self.lab().restored(&in_chunks(last, chunk_bytes)).await {
                Err(error) => error.detailed(),
                Ok(mut restored) => {
                    let exported = self.lab().export(&mut restored, Setting::default(), 0).await;
                    match exported {
                        Ok((exported, _)) if histogram(&exported) == histogram(&expected) => continue,
                        Ok(_) => "the restored state is another one".to_owned(),
                        Err(error) => error.detailed(),
                    }
                }
            };
            let chunks =
                if chunk_bytes == 1 { "one byte".into() } else { format!("{} bytes", grouped(chunk_bytes as u64)) };
            let text = format!("if state.read returns {chunks} at once: {text}");
            self.report.add(Finding::new(Kind::ChunkBorders, text));
            return Ok(());
        }
        Ok(())
    }

    fn check_exports(&mut self, exports: &[Exported]) {
        let Some(largest) = exports.iter().max_by_key(|export| export.state_bytes) else { return };
        let Exported { state_bytes, memory_bytes, growth_bytes, .. } = *largest;
        // The memory grows in pages, and a part of the buffer may have been free.
        if state_bytes >= STREAMED_BYTES_MIN && growth_bytes >= state_bytes / 4 * 3 {
            let text = format!(
                "an export of {:#} grows the memory of {:#} by {:#}",
                Bytes(state_bytes),
                Bytes(memory_bytes),
                Bytes(growth_bytes)
            );
            self.report.add(Finding::new(Kind::ExportNotStreamed, text));
        }
        if let Some(fuel) = extrapolated_fuel(exports).filter(|fuel| *fuel > MAINTENANCE_FUEL) {
            let text = format!(
                "an export of {:#} burns {} fuel; one of {STATE_FACTOR} times as much would burn about {}, and the limit \
                 is {}",
                Bytes(state_bytes),
                grouped(largest.fuel),
                grouped(fuel),
                grouped(MAINTENANCE_FUEL)
            );
            self.report.add(Finding::new(Kind::ExportTooCostly, text));
        }
    }
}

/// Returns the fuel of an export of [`STATE_FACTOR`] times the largest state, by the growth from the state of half that
/// size to it.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate")]
fn extrapolated_fuel(exports: &[Exported]) -> Option<u64> {
    let largest = exports.iter().max_by_key(|export| export.state_bytes)?;
    let half = exports.iter().filter(|export| export.state_bytes <= largest.state_bytes / 2 && export.state_bytes > 0);
    let exponent = match half.max_by_key(|export| export.state_bytes) {
        Some(half) => {
            let fuel_ratio = largest.fuel.max(1) as f64 / half.fuel.max(1) as f64;
            let size_ratio = largest.state_bytes as f64 / half.state_bytes as f64;
            (fuel_ratio.ln() / size_ratio.ln()).max(0.0)
        }
        None => 1.0,
    };
    Some((largest.fuel as f64 * f64::from(STATE_FACTOR).powf(exponent)) as u64)
}

/// Returns a snapshot with another version of its state.
fn with_version(snapshot: &Snapshot, version: u32) -> Arc<Snapshot> {
    let (sequence, timestamp) = (snapshot.sequence(), snapshot.timestamp());
    Arc::new(Snapshot::new(sequence, timestamp, version, snapshot.sections().to_vec(), snapshot.disk().clone()))
}

/// Returns a snapshot whose state is in chunks of another length.
fn in_chunks(snapshot: &Snapshot, chunk_bytes: usize) -> Arc<Snapshot> {
    let rechunked = |section: &Section| {
        let bytes: Vec<u8> = section.chunks.iter().flatten().copied().collect();
        let bytes = bytes::Bytes::from(bytes);
        let starts = (0..bytes.len()).step_by(chunk_bytes);
        let chunks = starts.map(|start| bytes.slice(start..(start + chunk_bytes).min(bytes.len()))).collect();
        Section { kind: section.kind, chunks }
    };
    let sections = snapshot.sections().iter().map(rechunked).collect();
    let (sequence, timestamp) = (snapshot.sequence(), snapshot.timestamp());
    Arc::new(Snapshot::new(sequence, timestamp, snapshot.state_version(), sections, snapshot.disk().clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_api::clock::Timestamp;
    use lifeboat_api::id::Sequence;
    use lifeboat_disk::Disk;
    use lifeboat_vm::snapshot::SectionKind;

    #[test]
    fn a_state_in_other_chunks_has_the_same_bytes() {
        let chunks = vec![bytes::Bytes::from_static(b"abcde"), bytes::Bytes::from_static(b"fgh")];
        let section = Section { kind: SectionKind::State, chunks };
        let snapshot = Snapshot::new(Sequence(1), Timestamp(2), 3, vec![section], Disk::new(0));
        for (chunk_bytes, count) in [(1, 8), (3, 3), (100, 1)] {
            let other = in_chunks(&snapshot, chunk_bytes);
            assert_eq!(other.chunks().count(), count);
            assert!(crate::lab::is_same_export(&snapshot, &other));
        }
    }

    #[test]
    fn the_fuel_of_a_larger_state_follows_its_growth() {
        let export = |state_bytes, fuel| Exported { state_bytes, fuel, memory_bytes: 0, growth_bytes: 0 };
        assert_eq!(extrapolated_fuel(&[]), None);
        assert_eq!(extrapolated_fuel(&[export(10, 50)]), Some(500));
        let squared = extrapolated_fuel(&[export(10, 100), export(20, 400), export(40, 1_600)]).expect("exports");
        assert!((159_999..=160_001).contains(&squared), "{squared}");
    }
}
