//! Each decoder with its corpus, and with 3,000 to 50,000 mutants of it that are the same in every run.
//!
//! `LIFEBOAT_FUZZ_ROUNDS` sets how many of each, `LIFEBOAT_FUZZ_SEED` what they are drawn from.

use lifeboat_fuzz::{Outcome, Plan, TARGETS, fuzz, replay, target};
use std::time::Duration;

/// Of a hundred mutants, those that are decoded at least: otherwise nothing behind checksums is tested.
const ACCEPTED_PERCENT_MIN: u64 = 5;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("the variable is a number"))
}

#[track_caller]
fn keeps_its_promises(name: &str) {
    let target = target(name).expect("there is such a target");
    let plan = Plan {
        seed: number("LIFEBOAT_FUZZ_SEED").unwrap_or(1),
        rounds: number("LIFEBOAT_FUZZ_ROUNDS").unwrap_or(target.rounds),
        time: Duration::MAX,
    };
    let report = fuzz(target, plan).unwrap_or_else(|failure| panic!("{failure}"));
    assert!(report.accepted * 100 >= report.rounds * ACCEPTED_PERCENT_MIN, "too few mutants are decoded: {report}");
}

macro_rules! targets {
    ($($test:ident: $name:literal,)*) => {
        $(#[test]
        fn $test() {
            keeps_its_promises($name);
        })*

        #[test]
        fn every_target_has_a_test() {
            assert_eq!(TARGETS.iter().map(|target| target.name).collect::<Vec<_>>(), [$($name),*]);
        }
    };
}

targets! {
    any_bytes_are_a_frame_or_refused: "frame",
    any_bytes_are_a_segment_header_or_refused: "segment-header",
    any_journal_goes_on_with_what_it_has: "journal",
    any_bytes_are_a_record_or_refused: "record",
    any_file_is_a_snapshot_or_refused: "snapshot",
    any_file_is_a_portable_snapshot_or_refused: "portable",
    any_bytes_are_forgotten_times_or_none: "forgotten-times",
    any_bytes_are_the_table_of_a_disk_or_refused: "disk-table",
    any_bytes_are_the_head_of_a_pack_or_refused: "pack",
    any_bytes_are_an_entry_of_a_service_or_refused: "service-entry",
    any_bytes_are_an_entry_of_a_user_or_refused: "user-entry",
    any_bytes_are_an_entry_of_a_token_or_refused: "token-entry",
    any_line_is_an_envelope_or_refused: "envelope",
    any_file_is_a_configuration_or_refused: "configuration",
    any_file_is_a_scenario_or_refused: "scenario",
    any_file_is_a_workload_or_refused: "workload",
}

#[test]
fn every_folder_of_the_corpus_belongs_to_a_target() {
    let folder = lifeboat_fuzz::corpus_folder(&TARGETS[0]);
    for entry in std::fs::read_dir(folder.parent().expect("a folder of folders")).expect("readable") {
        let name = entry.expect("readable").file_name().into_string().expect("a name");
        assert!(target(&name).is_some(), "corpus/{name} belongs to no target");
    }
}

/// Of the longest inputs that are mutated nothing is seen that grows with the square of their length.
#[test]
fn an_entry_with_parts_of_all_kinds_is_read_in_time() {
    let varint = |number: u32| match number {
        0..0x80 => vec![number as u8],
        0x80..0x4000 => vec![number as u8 | 0x80, (number >> 7) as u8],
        _ => vec![number as u8 | 0x80, (number >> 7) as u8 | 0x80, (number >> 14) as u8],
    };
    let parts: Vec<u8> = (0..=0xffff).flat_map(|kind| [varint(kind), vec![0, 0]].concat()).collect();
    let entry = [vec![2], varint(0x1_0000), parts].concat();
    let outcome = replay(target("service-entry").expect("there is such a target"), &entry);
    assert!(matches!(&outcome, Ok(Outcome::Refused(reason)) if reason.contains("part of kind")), "{outcome:?}");
}
