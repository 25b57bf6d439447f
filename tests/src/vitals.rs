//! What /proc says about a running program: memory, descriptors, CPU.

use std::fs;
use std::ops::Add;

use anyhow::{Context, Result};

use crate::lab::process::Process;
use crate::tree::tree;

/// Clock ticks of /proc in a second; Linux has shown this value to programs since ever.
const TICKS_PER_SECOND: f64 = 100.0;

/// One look at a program.
#[derive(Clone, Copy, Debug, Default)]
pub struct Vitals {
    /// Resident memory, in bytes.
    pub memory_len: u64,
    /// Open descriptors.
    pub descriptor_count: usize,
    /// CPU seconds spent so far, user and system.
    pub cpu_seconds: f64,
}

impl Vitals {
    /// Looks at a program.
    ///
    /// # Errors
    /// When it is gone.
    pub fn of(process: &Process) -> Result<Self> {
        Self::of_pid(process.pid())
    }

    /// Looks at a program and all that it has started. What ends meanwhile is left out.
    ///
    /// # Errors
    /// When the program itself is gone.
    pub fn of_tree(process: &Process) -> Result<Self> {
        let (first, others) = (Self::of(process)?, tree(process.pid()).into_iter().skip(1));
        Ok(others.flat_map(|member| Self::of_pid(member.pid)).fold(first, Self::add))
    }

    fn of_pid(pid: u32) -> Result<Self> {
        let proc = format!("/proc/{pid}");
        let read = |name: &str| fs::read_to_string(format!("{proc}/{name}")).context("/proc");
        let status = read("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes: u64 = line
            .and_then(|line| line.split_whitespace().next()?.parse().ok())
            .context("/proc says the memory of a running program")?;
        let stat = read("stat")?;
        let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
        let ticks: f64 = fields.skip(11).take(2).filter_map(|n| n.parse::<f64>().ok()).sum();
        Ok(Self {
            memory_len: kilobytes * 1024,
            descriptor_count: fs::read_dir(format!("{proc}/fd"))?.count(),
            cpu_seconds: ticks / TICKS_PER_SECOND,
        })
    }
}

impl Add for Vitals {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            memory_len: self.memory_len + other.memory_len,
            descriptor_count: self.descriptor_count + other.descriptor_count,
            cpu_seconds: self.cpu_seconds + other.cpu_seconds,
        }
    }
}
