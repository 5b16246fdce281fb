//! Returning memory to the kernel that only the start or a burst of load needed.
//!
//! After its start a program has every page resident that the dynamic linker and the start-up code touched, and with
//! each of them the fifteen that the kernel maps along (fault-around). For the `isthmus` command, which contains all
//! components, that is far more than an idle component uses: a sidecar of an optimised build had 18 MiB of files
//! resident. A burst of load has the same effect, and leaves free memory with the allocator. [`Reclaimer`] returns both
//! (docs/decisions/allocator.md).

use std::fs;
use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use rustix::mm::{Advice, madvise};

/// Drops the resident pages of the program file and of its libraries. Pages that are used again come back from the page
/// cache. Returns the number of bytes that were resident. A mapping that the kernel refuses to drop stays resident.
///
/// # Errors
/// Returns an error if `/proc/self/smaps` cannot be read.
pub fn drop_file_pages() -> io::Result<usize> {
    let mut dropped = 0;
    for mapping in unmodified(&fs::read_to_string("/proc/self/smaps")?) {
        let address = std::ptr::with_exposed_provenance_mut(mapping.range.start);
        let length = mapping.range.len();
        // SAFETY: a private, read-only mapping without anonymous pages contains exactly the bytes of its file, so
        // dropping pages loses nothing: the next access maps them again. File mappings change only when libraries are
        // loaded or unloaded, which the programs do not do.
        if unsafe { madvise(address, length, Advice::LinuxDontNeed) }.is_ok() {
            dropped += mapping.resident;
            // SAFETY: the readahead setting does not affect the contents.
            let _ = unsafe { madvise(address, length, Advice::Random) };
        }
    }
    Ok(dropped)
}

/// Returns the resident memory of this process in bytes, including file pages.
pub(crate) fn resident() -> io::Result<usize> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<usize>().ok());
    Ok(kib.ok_or(io::ErrorKind::InvalidData)? << 10)
}

/// The share of one processor up to which a process counts as idle.
const IDLE_SHARE: f64 = 0.05;
/// The growth of resident memory that triggers another drop of file pages: about the pages that a few requests touch.
const TOLERATED_GROWTH: usize = 2 << 20;

/// Detects that the process is idle, and then returns memory that only its earlier work needed.
///
/// Dropping the program's pages takes 1 ms, and the next requests fault in about 100 of them at 1 to 2 µs each
/// (November 2026). So pages are dropped once after each period of work. A busy process is left alone.
#[derive(Debug)]
pub struct Reclaimer {
    checked: Instant,
    used: Duration,
    stage: ReclaimStage,
}

#[derive(Debug)]
enum ReclaimStage {
    /// The process started or was busy, and pages were not dropped since.
    Busy,
    /// Pages were dropped at the last check. The next check finds the resident memory of the idle process.
    Dropped,
    /// The process is idle with this many resident bytes.
    Settled(usize),
}

impl Reclaimer {
    /// Creates the reclaimer of a process that has just started.
    #[expect(clippy::new_without_default, reason = "it reads clocks")]
    pub fn new() -> Self {
        Self { checked: Instant::now(), used: processor_time(), stage: ReclaimStage::Busy }
    }

    /// Returns memory to the kernel if the process was idle since the last call. To be called every few seconds.
    /// Returns the number of bytes, or `None` if the process was busy.
    ///
    /// # Errors
    /// Returns an error if the process cannot read its state in `/proc`. The next call may succeed.
    pub fn reclaim_if_idle(&mut self) -> io::Result<Option<usize>> {
        let (now, used) = (Instant::now(), processor_time());
        let share = (used - self.used).as_secs_f64() / (now - self.checked).as_secs_f64();
        (self.checked, self.used) = (now, used);
        if share > IDLE_SHARE {
            self.stage = ReclaimStage::Busy;
            return Ok(None);
        }
        // The decay of free memory advances only with allocations and frees, of which an idle process has none.
        let before = resident()?;
        crate::allocator::purge()?;
        let kept = resident()?;
        if self.stage.is_due(kept) {
            drop_file_pages()?;
        }
        Ok(Some(before.saturating_sub(resident()?)))
    }
}

impl ReclaimStage {
    /// Advances the stage of an idle process with this many resident bytes. Returns whether to drop file pages.
    fn is_due(&mut self, resident: usize) -> bool {
        let (next, due) = match *self {
            Self::Busy => (Self::Dropped, true),
            Self::Dropped => (Self::Settled(resident), false),
            Self::Settled(before) if resident > before + TOLERATED_GROWTH => (Self::Dropped, true),
            Self::Settled(before) => (Self::Settled(resident.min(before)), false),
        };
        *self = next;
        due
    }
}

/// Returns the processor time of this process, including ended threads.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing, and this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

struct Mapping {
    range: Range<usize>,
    resident: usize,
}

/// Returns the private file mappings in `/proc/self/smaps` whose contents are those of the file: read-only, and without
/// anonymous pages, resident or swapped. Mappings that the linker relocates before it protects them (RELRO) have
/// anonymous pages.
fn unmodified(smaps: &str) -> Vec<Mapping> {
    let mut found: Vec<Mapping> = Vec::new();
    let mut candidate: Option<Mapping> = None;
    for line in smaps.lines() {
        if let Some((name, value)) = line.split_once(':').filter(|(name, _)| !name.contains([' ', '-'])) {
            let bytes =
                value.trim().strip_suffix(" kB").and_then(|value| value.parse::<usize>().ok()).map(|kib| kib << 10);
            match (name, bytes) {
                ("Rss", Some(bytes)) => {
                    if let Some(mapping) = &mut candidate {
                        mapping.resident = bytes;
                    }
                }
                ("Anonymous" | "Swap", bytes) if bytes != Some(0) => candidate = None,
                _ => {}
            }
        } else {
            found.extend(candidate.take());
            candidate = private_file(line).map(|range| Mapping { range, resident: 0 });
        }
    }
    found.extend(candidate);
    found
}

/// Parses the first line of a mapping. Returns its range if it maps a file privately and read-only.
fn private_file(line: &str) -> Option<Range<usize>> {
    let mut fields = line.split_ascii_whitespace();
    let (range, permissions, path) = (fields.next()?, fields.next()?, fields.nth(3)?);
    if !path.starts_with('/') || !permissions.ends_with('p') || permissions.contains('w') {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
557809847000-55780984c000 r-xp 00002000 fe:00 247026                     /usr/bin/isthmus
Rss:                  20 kB
Anonymous:             0 kB
Swap:                  0 kB
55780984f000-557809850000 r--p 00009000 fe:00 247026                     /usr/bin/isthmus
Rss:                   4 kB
Anonymous:             4 kB
Swap:                  0 kB
557809850000-557809851000 rw-p 0000a000 fe:00 247026                     /usr/bin/isthmus
Rss:                   4 kB
Anonymous:             0 kB
7fc61e5dc000-7fc61e5fe000 r--p 00000000 00:00 0
Rss:                   4 kB
Anonymous:             0 kB
7fc61e661000-7fc61e687000 r--s 00000000 fe:00 326269                     /usr/share/shared
Rss:                   8 kB
Anonymous:             0 kB
7fc61e687000-7fc61e688000 r--p 00000000 fe:00 326270                     /usr/lib/libc.so.6
Rss:                   4 kB
Anonymous:             0 kB
VmFlags: rd mr mw me
";

    #[test]
    fn only_unmodified_mappings_are_dropped() {
        let found = unmodified(SMAPS);
        let starts: Vec<_> = found.iter().map(|mapping| (mapping.range.start, mapping.resident)).collect();
        assert_eq!(starts, [(0x5578_0984_7000, 20 << 10), (0x7fc6_1e68_7000, 4 << 10)]);
    }

    #[test]
    fn pages_are_dropped_once_and_again_after_growth() {
        let mut stage = ReclaimStage::Busy;
        let table = [(20 << 20, true), (9 << 20, false), (10 << 20, false), (12 << 20, true), (13 << 20, false)];
        for (step, (resident, due)) in table.into_iter().enumerate() {
            assert_eq!(stage.is_due(resident), due, "step {step}: {stage:?}");
        }
        // A process that needs more than before does not drop its pages again and again.
        assert!(!stage.is_due(13 << 20));
        assert!(matches!(stage, ReclaimStage::Settled(settled) if settled == 13 << 20));
    }

    #[test]
    fn a_busy_process_is_left_alone() {
        let mut reclaimer = Reclaimer::new();
        while reclaimer.checked.elapsed() < Duration::from_millis(100) {
            std::hint::black_box(processor_time());
        }
        assert_eq!(reclaimer.reclaim_if_idle().expect("/proc"), None);
        assert!(matches!(reclaimer.stage, ReclaimStage::Busy));
    }

    #[test]
    fn the_program_continues_after_its_pages_are_dropped() {
        let before: Vec<String> = (0..100).map(|number| format!("{number:?}")).collect();
        assert!(drop_file_pages().expect("smaps") > 0);
        let text = before.iter().fold(String::new(), |text, number| text + number);
        assert!(text.starts_with("01234"));
        std::thread::spawn(|| assert_eq!(std::env::args().count(), std::env::args_os().count())).join().unwrap();
    }
}
