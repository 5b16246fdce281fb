//! Giving back the memory that only starting took.
//!
//! A program that has just started holds every page that the dynamic linker and its start-up code touched, and around each
//! of them the fifteen that the kernel maps along (fault-around). Of the `isthmus` command, which holds every component, that
//! is far more than a component at rest uses: measured on an optimised build, a sidecar had 18 MiB of files resident.
//! A burst of load does the same again, and leaves what it freed with the allocator. [`Rest`] gives back both.

use std::fs;
use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use rustix::mm::{Advice, madvise};

/// Drops the pages of this program's and its libraries' files from this process; what is used again comes back page by page from
/// the page cache. Call it once, when start-up is over. Returns the bytes that were resident and were given back.
///
/// Errors: `/proc/self/smaps` cannot be read. A mapping that the kernel refuses to drop is left as it is.
pub fn release_startup_pages() -> io::Result<usize> {
    let mut released = 0;
    for mapping in unmodified(&fs::read_to_string("/proc/self/smaps")?) {
        let address = std::ptr::with_exposed_provenance_mut(mapping.range.start);
        let length = mapping.range.len();
        // SAFETY: a private mapping of a file that cannot be written and has no page of its own holds the file's very
        // bytes, so dropping its pages loses nothing: the next access maps them again. Mappings of files come and go only
        // as libraries are loaded and unloaded, which nothing here does.
        if unsafe { madvise(address, length, Advice::LinuxDontNeed) }.is_ok() {
            released += mapping.resident;
            // SAFETY: how pages are read ahead changes no contents.
            let _ = unsafe { madvise(address, length, Advice::Random) };
        }
    }
    Ok(released)
}

/// Bytes of this process that are in memory, those of its files included.
pub(crate) fn resident() -> io::Result<usize> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<usize>().ok());
    Ok(kib.ok_or(io::ErrorKind::InvalidData)? << 10)
}

/// Up to this share of one processor, a process counts as resting.
const RESTING: f64 = 0.05;
/// What may come back after each time without being given back again: about what a handful of requests touches.
const TOLERATED: usize = 2 << 20;

/// Tells when a process rests, and then gives back the memory that only its work before has taken.
///
/// Giving back the program's pages takes 1 ms (November 2026), and the next requests fault in some 100 pieces of it at 1 to
/// 2 µs each: so that is done after work and not while little happens. A process that works is left alone.
#[derive(Debug)]
pub struct Rest {
    looked: Instant,
    used: Duration,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// It started or worked, and nothing was given back since.
    Worked,
    /// It was given back at the last look; what is resident at the next is what being there takes.
    GaveBack,
    /// This much was resident then.
    Settled(usize),
}

impl Rest {
    /// Of a process that has just started.
    #[expect(clippy::new_without_default, reason = "it reads clocks")]
    pub fn new() -> Self {
        Self { looked: Instant::now(), used: processor_time(), stage: Stage::Worked }
    }

    /// To be called every few seconds. Returns the bytes that were given back; `None` from a process that works.
    ///
    /// Errors: the process cannot read about itself in `/proc`. The next look may succeed.
    pub fn look(&mut self) -> io::Result<Option<usize>> {
        let (now, used) = (Instant::now(), processor_time());
        let share = (used - self.used).as_secs_f64() / (now - self.looked).as_secs_f64();
        (self.looked, self.used) = (now, used);
        if share > RESTING {
            self.stage = Stage::Worked;
            return Ok(None);
        }
        // Nothing is allocated or freed in a process that rests, by which an allocator would see that time passes.
        let before = resident()?;
        crate::allocator::give_back()?;
        let kept = resident()?;
        if self.stage.is_due(kept) {
            release_startup_pages()?;
        }
        Ok(Some(before.saturating_sub(resident()?)))
    }
}

impl Stage {
    /// Whether to give back now, when so much is resident and the process rests.
    fn is_due(&mut self, resident: usize) -> bool {
        let (next, due) = match *self {
            Self::Worked => (Self::GaveBack, true),
            Self::GaveBack => (Self::Settled(resident), false),
            Self::Settled(before) if resident > before + TOLERATED => (Self::GaveBack, true),
            Self::Settled(before) => (Self::Settled(resident.min(before)), false),
        };
        *self = next;
        due
    }
}

/// Time that all threads of this process have had on processors, those that ended included.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a place for the clock's value, and this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

struct Mapping {
    range: Range<usize>,
    resident: usize,
}

/// The private file mappings in `/proc/self/smaps` that nothing can have written to: not writable, and without a page of their own,
/// in memory or swapped out. What the linker relocated before it protected it (RELRO) has such pages.
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

/// The range of a mapping's first line if it maps a file privately and without the right to write.
fn private_file(line: &str) -> Option<Range<usize>> {
    let mut fields = line.split_ascii_whitespace();
    let (range, rights, path) = (fields.next()?, fields.next()?, fields.nth(3)?);
    if !path.starts_with('/') || !rights.ends_with('p') || rights.contains('w') {
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
    fn only_what_nothing_can_have_written_to_is_dropped() {
        let found = unmodified(SMAPS);
        let starts: Vec<_> = found.iter().map(|mapping| (mapping.range.start, mapping.resident)).collect();
        assert_eq!(starts, [(0x5578_0984_7000, 20 << 10), (0x7fc6_1e68_7000, 4 << 10)]);
    }

    #[test]
    fn gives_back_once_and_again_only_after_growth() {
        let mut stage = Stage::Worked;
        let table = [(20 << 20, true), (9 << 20, false), (10 << 20, false), (12 << 20, true), (13 << 20, false)];
        for (step, (resident, due)) in table.into_iter().enumerate() {
            assert_eq!(stage.is_due(resident), due, "step {step}: {stage:?}");
        }
        // More is needed now than before: it is not asked for again and again.
        assert!(!stage.is_due(13 << 20));
        assert!(matches!(stage, Stage::Settled(settled) if settled == 13 << 20));
    }

    #[test]
    fn a_process_that_works_is_left_alone() {
        let mut rest = Rest::new();
        while rest.looked.elapsed() < Duration::from_millis(100) {
            std::hint::black_box(processor_time());
        }
        assert_eq!(rest.look().expect("/proc"), None);
        assert!(matches!(rest.stage, Stage::Worked));
    }

    #[test]
    fn the_program_goes_on_after_it() {
        let before: Vec<String> = (0..100).map(|number| format!("{number:?}")).collect();
        assert!(release_startup_pages().expect("smaps") > 0);
        let text = before.iter().fold(String::new(), |text, number| text + number);
        assert!(text.starts_with("01234"));
        std::thread::spawn(|| assert_eq!(std::env::args().count(), std::env::args_os().count())).join().unwrap();
    }
}
