//! Runs a target: first its corpus, then mutants of it.

use crate::measure::{Measured, alone, measure};
use crate::mutate::{Mutator, Pool};
use crate::{INPUT_BYTES_MAX, Outcome, Repair, Target, corpus_folder, failures_folder};
use mutatis::Session;
use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The most refused inputs from which mutants are made.
const REFUSED_MAX: usize = 256;

/// The most accepted inputs from which mutants are made.
const ACCEPTED_MAX: usize = 256;

/// One accepted mutant of this many joins the pool. No outcome shows which of them is worth further mutation.
const ACCEPTED_SHARE: u64 = 16;

/// The number of mutants tried to shrink the input of a failure.
const SHRINKS_MAX: usize = 2_000;

/// The longest time for shrinking.
const SHRINK_TIME_MAX: Duration = Duration::from_secs(20);

/// The number of characters of a message that distinguish kinds of refusals.
const KIND_CHARS_MAX: usize = 60;

/// The longest time for one input. Then the process is aborted, since nothing else ends a decoder that hangs.
const HANG_MAX: Duration = Duration::from_secs(60);

/// The length of a run, and its seed.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The seed of the mutants. The same seed and corpus give the same mutants.
    pub seed: u64,
    /// The most mutants of the run.
    pub rounds: u64,
    /// The longest time of the run.
    pub time: Duration,
}

/// The results of a run that broke no promise.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The number of inputs in the corpus.
    pub corpus: usize,
    /// The number of mutants.
    pub rounds: u64,
    /// The number of mutants that were decoded.
    pub accepted: u64,
    /// The kinds of refusals, without numbers and quotations.
    pub refusals: BTreeSet<String>,
    /// The most memory that any input allocated, in bytes.
    pub peak_bytes: usize,
    /// The longest time that any input took.
    pub longest: Duration,
    /// The time of the whole run.
    pub time: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { corpus, rounds, accepted, refusals, peak_bytes, longest, time } = self;
        write!(
            f,
            "{corpus} inputs, {rounds} mutants in {:.1} s: {accepted} accepted, {} kinds of refusals, at most {} KiB and \
             {:.1} ms",
            time.as_secs_f64(),
            refusals.len(),
            peak_bytes / 1024,
            longest.as_secs_f64() * 1e3
        )
    }
}

/// A promise that a decoder broke.
#[derive(Debug, Clone)]
pub struct Failure {
    /// A sentence that names the broken promise.
    pub reason: String,
    /// The input, shrunk as far as possible within bounds.
    pub input: Vec<u8>,
    /// The file of the input, or None if it was not written.
    pub file: Option<PathBuf>,
    /// The name of the target.
    pub target: &'static str,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reason, input, file, target } = self;
        write!(f, "{target}: {reason}\n{} bytes: {:.400}", input.len(), input.escape_ascii().to_string())?;
        match file {
            Some(file) => write!(
                f,
                "\nto repeat it: cargo run --release -p lifeboat-fuzz -- {target} {}\nonce it is mended, move the file to \
                 host/fuzz/corpus/{target}/",
                file.display()
            ),
            None => Ok(()),
        }
    }
}

/// Runs one input.
///
/// # Errors
/// The [`Failure`] if the decoder breaks a promise.
pub fn replay(target: &Target, input: &[u8]) -> Result<Outcome, Box<Failure>> {
    let _alone = alone();
    check(target, input)
        .map(|measured| measured.outcome)
        .map_err(|reason| Box::new(Failure { reason, input: input.to_vec(), file: None, target: target.name }))
}

/// Runs an input, and then the encoding of its value.
fn check(target: &Target, input: &[u8]) -> Result<Measured, String> {
    let measured = measure(target, input)?;
    check_encoding(target, &measured)?;
    Ok(measured)
}

/// Runs the corpus of `target`, then mutants until either bound of `plan` is reached.
///
/// # Errors
/// The first [`Failure`].
///
/// # Panics
/// If the corpus cannot be read, or the folder of failures cannot be written.
pub fn fuzz(target: &Target, plan: Plan) -> Result<Report, Box<Failure>> {
    let _alone = alone();
    let begin = Instant::now();
    let current = Current::new(target);
    let inputs = corpus(target);
    let mut report = Report { corpus: inputs.len(), ..Report::default() };
    let mut seen = BTreeSet::new();
    let mut pool = Pool::default();
    for input in inputs {
        let measured = current.run(target, &input).map_err(|reason| failed(&current, target, &input, reason, &pool))?;
        report.note(&measured);
        seen.insert(kind(&measured.outcome));
        match measured.outcome {
            Outcome::Refused(_) => pool.refused.push(input),
            Outcome::Accepted(bytes) => {
                // An input in an older format is mutated in today's format as well.
                if bytes != input && bytes.len() <= INPUT_BYTES_MAX {
                    pool.accepted.push(bytes);
                }
                pool.accepted.push(input);
            }
        }
    }
    let mut session = Session::new().seed(plan.seed);
    while report.rounds < plan.rounds && begin.elapsed() < plan.time {
        let mut input = Vec::new();
        let mutated = session.mutate_with(&mut Mutator { target, pool: &pool }, &mut input);
        mutated.expect("there is always a mutation, and none fails");
        let measured = current.run(target, &input).map_err(|reason| failed(&current, target, &input, reason, &pool))?;
        report.rounds += 1;
        report.note(&measured);
        let is_new = seen.insert(kind(&measured.outcome));
        match measured.outcome {
            Outcome::Accepted(_) => {
                report.accepted += 1;
                if report.accepted.is_multiple_of(ACCEPTED_SHARE) && pool.accepted.len() < ACCEPTED_MAX {
                    pool.accepted.push(input);
                }
            }
            Outcome::Refused(_) if is_new && pool.refused.len() < REFUSED_MAX => pool.refused.push(input),
            Outcome::Refused(_) => {}
        }
    }
    report.time = begin.elapsed();
    Ok(report)
}

impl Report {
    fn note(&mut self, measured: &Measured) {
        self.peak_bytes = self.peak_bytes.max(measured.peak_bytes);
        self.longest = self.longest.max(measured.time);
        if let Outcome::Refused(_) = measured.outcome {
            self.refusals.insert(kind(&measured.outcome));
        }
    }
}

/// Returns the seeds, and the files of the corpus in the order of their names.
fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let mut inputs = (target.seeds)();
    let folder = corpus_folder(target);
    if folder.exists() {
        let files = std::fs::read_dir(&folder).expect("the corpus is readable");
        let mut files: Vec<PathBuf> = files.map(|file| file.expect("the corpus is readable").path()).collect();
        files.sort();
        inputs.extend(files.iter().map(|file| std::fs::read(file).expect("the corpus is readable")));
    }
    assert!(!inputs.is_empty(), "{} has no corpus", target.name);
    inputs
}

/// Checks that the encoding of the decoded value decodes to the same value, to the byte.
fn check_encoding(target: &Target, measured: &Measured) -> Result<(), String> {
    let Outcome::Accepted(bytes) = &measured.outcome else { return Ok(()) };
    match measure(target, bytes)?.outcome {
        Outcome::Accepted(again) if again == *bytes => Ok(()),
        Outcome::Accepted(again) => Err(format!(
            "it decodes a value, and another one from that value's encoding: {:.300} became {:.300}",
            bytes.escape_ascii().to_string(),
            again.escape_ascii().to_string()
        )),
        Outcome::Refused(message) => Err(format!(
            "it decodes a value, and refuses that value's encoding: {message:.300}: {:.300}",
            bytes.escape_ascii().to_string()
        )),
    }
}

/// Returns the kind of an outcome, without the parts that differ between inputs of one kind.
fn kind(outcome: &Outcome) -> String {
    let Outcome::Refused(message) = outcome else { return "accepted".into() };
    let mut kind = String::new();
    let mut quote = None;
    for char in message.chars().take(400) {
        match quote {
            Some(end) if char == end => quote = None,
            Some(_) => {}
            None if matches!(char, '\'' | '"' | '`') => quote = Some(char),
            None if char.is_ascii_digit() => {}
            None => kind.push(char),
        }
    }
    kind.truncate(kind.char_indices().nth(KIND_CHARS_MAX).map_or(kind.len(), |(at, _)| at));
    kind
}

/// Shrinks the input of a failure, and writes it to a file.
fn failed(current: &Current, target: &Target, input: &[u8], reason: String, pool: &Pool) -> Box<Failure> {
    let begin = Instant::now();
    let (mut input, mut reason) = (input.to_vec(), reason);
    let what = |reason: &str| kind(&Outcome::Refused(reason.chars().take(60).collect()));
    let mut session = Session::new().seed(0).shrink(true);
    let mut mutator = Mutator { target, pool };
    for _ in 0..SHRINKS_MAX {
        if begin.elapsed() > SHRINK_TIME_MAX {
            break;
        }
        let mut smaller = input.clone();
        let _ = session.mutate_with(&mut mutator, &mut smaller);
        if smaller == input {
            continue;
        }
        for repair in [None, Some(Repair::Hashes), Some(Repair::Lengths)] {
            let mut smaller = smaller.clone();
            if let Some(repair) = repair {
                (target.repair)(&mut smaller, repair);
            }
            let still = current.run(target, &smaller).err();
            if smaller.len() <= input.len()
                && let Some(still) = still.filter(|still| what(still) == what(&reason))
            {
                (input, reason) = (smaller, still);
                break;
            }
        }
    }
    let name = format!("{}-{}", target.name, &blake3::hash(&input).to_hex()[..16]);
    let file = failures_folder().join(name);
    let file = std::fs::write(&file, &input).is_ok().then_some(file);
    Box::new(Failure { reason, input, file, target: target.name })
}

/// The current input, in a file. Whatever ends the process, the file has the input.
struct Current {
    file: File,
    path: PathBuf,
    /// The start of the current input in milliseconds after the start of the run, plus one. 0 between two inputs.
    began: Arc<AtomicU64>,
    start: Instant,
}

impl Current {
    fn new(target: &Target) -> Self {
        let folder = failures_folder();
        std::fs::create_dir_all(&folder).expect("the folder of failures is writable");
        let path = folder.join(format!("{}.current", target.name));
        let file = File::create(&path).expect("the folder of failures is writable");
        let (began, start) = (Arc::new(AtomicU64::new(0)), Instant::now());
        watch(Arc::downgrade(&began), start, target.name, path.clone());
        Self { file, path, began, start }
    }

    /// Writes an input to the file, then runs it.
    fn run(&self, target: &Target, input: &[u8]) -> Result<Measured, String> {
        use std::os::unix::fs::FileExt;
        let written: io::Result<()> =
            self.file.set_len(input.len() as u64).and_then(|()| self.file.write_all_at(input, 0));
        written.expect("the file of the current input is writable");
        self.began.store(self.start.elapsed().as_millis() as u64 + 1, Ordering::Relaxed);
        let measured = check(target, input);
        self.began.store(0, Ordering::Relaxed);
        measured
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        // The run is over, so the file is no longer needed.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Starts a thread that aborts the process if an input takes longer than [`HANG_MAX`].
fn watch(began: std::sync::Weak<AtomicU64>, start: Instant, target: &'static str, path: PathBuf) {
    let hang_max = HANG_MAX.as_millis() as u64;
    std::thread::spawn(move || {
        while let Some(began) = began.upgrade() {
            let began = began.load(Ordering::Relaxed);
            if began > 0 && (start.elapsed().as_millis() as u64).saturating_sub(began) > hang_max {
                report_hang(target, &path);
                std::process::abort();
            }
            std::thread::park_timeout(Duration::from_millis(500));
        }
    });
}

fn report_hang(target: &str, path: &Path) {
    use std::io::Write;
    let _ = writeln!(
        io::stderr(),
        "{target}: an input takes more than {} s; to repeat it: cargo run --release -p lifeboat-fuzz -- {target} {}",
        HANG_MAX.as_secs(),
        path.display()
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Memory, Shape};

    /// Repairs the checksum of a file whose second byte is a count. Without a repair, no mutant changes the count.
    fn repair(file: &mut Vec<u8>, repair: Repair) {
        if repair == Repair::Lengths && file.is_empty() {
            file.push(0);
        }
        if let Some((sum, rest)) = file.split_first_mut() {
            *sum = rest.iter().fold(0, |sum, byte| sum ^ byte.rotate_left(3));
        }
    }

    /// Returns the bytes after the checksum, or a refusal if the checksum is wrong.
    fn content(file: &[u8]) -> Result<&[u8], Outcome> {
        let mut repaired = file.to_vec();
        repair(&mut repaired, Repair::Hashes);
        if repaired == file && file.len() > 2 { Ok(&file[1..]) } else { Err(Outcome::Refused("it is damaged".into())) }
    }

    fn toy(decode: fn(&[u8]) -> Outcome) -> Target {
        Target {
            name: "toy",
            about: "a file of two bytes or more",
            seeds: || vec![vec![0, 0, 0, 0, 0]],
            shape: Shape::Bytes,
            repair,
            decode,
            memory: Memory { base: 1024 * 1024, each: 16 },
            rounds: 0,
        }
    }

    fn plan(seed: u64) -> Plan {
        Plan { seed, rounds: 20_000, time: Duration::MAX }
    }

    #[track_caller]
    fn failure(decode: fn(&[u8]) -> Outcome) -> Failure {
        let target = toy(decode);
        let failure = fuzz(&target, plan(1)).expect_err("the fault is found");
        let input = std::fs::read(failure.file.as_ref().expect("it was written")).expect("readable");
        // Figures may differ between two runs: another thread of the test process allocates too.
        let figures = |reason: &str| kind(&Outcome::Refused(reason.to_owned()));
        let again = replay(&target, &input).expect_err("it is the input of the fault");
        assert_eq!(figures(&again.reason), figures(&failure.reason));
        *failure
    }

    #[test]
    fn a_panic_behind_a_checksum_is_found() {
        let failure = failure(|file| {
            let content = match content(file) {
                Ok(content) => content,
                Err(refused) => return refused,
            };
            assert!(content[0] < 250, "a count of {}", content[0]);
            Outcome::Accepted(file.to_vec())
        });
        assert!(failure.reason.starts_with("it panics: ") && failure.reason.contains("a count of "), "{failure}");
        assert!(failure.input.len() <= 5, "it was made smaller: {failure}");
    }

    #[test]
    fn memory_that_the_input_does_not_bound_is_found() {
        let failure = failure(|file| {
            let content = match content(file) {
                Ok(content) => content,
                Err(refused) => return refused,
            };
            let room = Vec::<u64>::with_capacity(usize::from(content[0]) << 16);
            Outcome::Refused(format!("it is a file with room for {}", room.capacity()))
        });
        assert!(failure.reason.starts_with("it allocates "), "{failure}");
    }

    #[test]
    fn an_encoding_that_is_read_otherwise_is_found() {
        let failure = failure(|file| match content(file) {
            Ok(content) => {
                let mut again = [&[0], content].concat();
                again[2] = again[2].saturating_add(u8::from(again[2] > 5));
                repair(&mut again, Repair::Hashes);
                Outcome::Accepted(again)
            }
            Err(refused) => refused,
        });
        assert!(failure.reason.contains("another one from that value's encoding"), "{failure}");
    }

    #[test]
    fn a_message_that_drives_a_terminal_is_found() {
        let failure =
            failure(|file| Outcome::Refused(format!("wrong: {}", String::from_utf8_lossy(&file[..file.len().min(1)]))));
        assert!(failure.reason.contains("its message has the character"), "{failure}");
    }

    #[test]
    fn the_same_seed_gives_the_same_mutants() {
        // The kind of a refusal leaves out digits, so the messages have letters.
        let target = toy(|file| Outcome::Refused(file.iter().map(|byte| char::from(b'a' + byte % 26)).collect()));
        let kinds = |seed| fuzz(&target, Plan { rounds: 300, ..plan(seed) }).expect("it breaks no promise").refusals;
        assert_eq!(kinds(1), kinds(1));
        assert_ne!(kinds(1), kinds(2));
    }
}
