//! The memory and CPU of a process, as the kernel accounts for them.
//!
//! Memory is the proportional set size (PSS) from `/proc/<pid>/smaps_rollup`: pages shared with other processes count by
//! their share, so that a master and its worker can be added up. CPU is the first field of
//! `/proc/<pid>/task/*/schedstat`: the nanoseconds that the scheduler gave to each thread, whatever else the machine did
//! meanwhile. Kernel memory (socket buffers) is in neither, and is the same for all peers.

use std::fs;

use anyhow::Context;

/// PSS of all `pids` together, in KiB.
pub(crate) fn pss_kib(pids: &[u32]) -> anyhow::Result<u64> {
    pids.iter().map(|pid| pss_kib_of(*pid)).sum()
}

/// CPU time given to all threads of all `pids` so far, in nanoseconds.
pub(crate) fn cpu_ns(pids: &[u32]) -> anyhow::Result<u64> {
    cpu_ns_of_threads(pids, "")
}

/// The same of those threads alone whose name begins so.
pub(crate) fn cpu_ns_of_threads(pids: &[u32], name: &str) -> anyhow::Result<u64> {
    pids.iter().map(|pid| cpu_ns_of(*pid, name)).sum()
}

fn pss_kib_of(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    pss_in(&text).with_context(|| format!("no Pss in {path}"))
}

fn pss_in(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

fn cpu_ns_of(pid: u32, name: &str) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/task");
    let tasks = fs::read_dir(&path).with_context(|| format!("cannot read {path}"))?;
    let mut total = 0;
    for task in tasks {
        let task = task?.path();
        // A thread that ended since the directory was read takes its time with it; peers keep their threads.
        let Ok(own_name) = fs::read_to_string(task.join("comm")) else { continue };
        let Ok(text) = fs::read_to_string(task.join("schedstat")) else { continue };
        if !own_name.starts_with(name) {
            continue;
        }
        total += on_cpu_in(&text).with_context(|| format!("not a schedstat below {path}"))?;
    }
    Ok(total)
}

fn on_cpu_in(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pss_is_the_line_of_that_name_alone() {
        let text = "00400000-7ffc r--p 00000000 00:00 0 [rollup]\nRss:   1632 kB\nPss:    260 kB\nPss_Dirty: 116 kB\n";
        assert_eq!(pss_in(text), Some(260));
        assert_eq!(pss_in("Pss_Anon: 5 kB\n"), None);
    }

    #[test]
    fn cpu_time_is_the_first_field_of_schedstat() {
        assert_eq!(on_cpu_in("84257 12 1\n"), Some(84_257));
        assert_eq!(on_cpu_in(""), None);
    }

    #[test]
    fn the_own_process_has_memory_and_its_cpu_time_grows_with_work() {
        let pids = [std::process::id()];
        assert!(pss_kib(&pids).unwrap() > 100);
        let before = cpu_ns(&pids).unwrap();
        let target = crate::clock::now_ns() + 30_000_000;
        while crate::clock::now_ns() < target {
            std::hint::spin_loop();
        }
        assert!(cpu_ns(&pids).unwrap() > before);
    }

    #[test]
    fn the_time_of_a_thread_is_found_by_its_name() {
        let work = || {
            let target = crate::clock::now_ns() + 20_000_000;
            while crate::clock::now_ns() < target {
                std::hint::spin_loop();
            }
            cpu_ns_of_threads(&[std::process::id()], "bench-one").unwrap()
        };
        let of_the_thread = std::thread::Builder::new().name("bench-one".to_owned()).spawn(work).unwrap();
        assert!(of_the_thread.join().unwrap() > 0);
        assert_eq!(cpu_ns_of_threads(&[std::process::id()], "bench-other").unwrap(), 0);
    }
}
