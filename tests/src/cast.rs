//! The real programs, played by hosts of a lab as their users would: by command line and stdout.

use std::fs::Permissions;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::lab::Host;
use crate::lab::process::Process;

/// Longest wait for a program's first line.
pub const START_MAX: Duration = Duration::from_secs(15);

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `overlay-gw`.
    pub gateway: PathBuf,
    /// `overlay-seller`.
    pub seller: PathBuf,
}

impl Programs {
    /// Finds the programs that were built together with the caller: in its directory or above it.
    ///
    /// # Errors
    /// When they have not been built.
    pub fn find() -> Result<Self> {
        Ok(Self { gateway: beside("overlay-gw")?, seller: beside("overlay-seller")? })
    }
}

/// Finds a program that was built together with the caller: in its directory or above it.
///
/// # Errors
/// When it has not been built.
pub fn beside(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let mut dir = own.parent().context("an executable is in a directory")?;
    if dir.ends_with("deps") {
        dir = dir.parent().context("cargo's deps is in a directory")?;
    }
    let path = dir.join(name);
    ensure!(path.is_file(), "{} is missing: build the programs first (make build)", path.display());
    Ok(path)
}

/// Writes a script of a program's name into a folder of `dir`, which runs it by a command that runs
/// programs: `prlimit --nofile=64`.
///
/// # Errors
/// The system's.
pub fn wrapped(program: &Path, dir: &Path, by: &str) -> Result<PathBuf> {
    let path = dir.join("wrapped").join(program.file_name().context("a program has a name")?);
    std::fs::create_dir_all(dir.join("wrapped"))?;
    let program = program.display();
    std::fs::write(&path, format!("#!/bin/sh\nexec {by} '{program}' \"$@\"\n"))?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o755))?;
    Ok(path)
}

/// A running `overlay-gw up`.
#[derive(Debug)]
pub struct Gateway {
    /// Where it runs.
    pub host: Host,
    /// The program.
    pub process: Process,
    /// Name of its order.
    pub order: String,
    /// What it printed when ready.
    pub line: String,
    /// The buyer's address on the segment.
    pub ipv4: Ipv4Addr,
    /// The buyer's IPv6 address on the segment.
    pub ipv6: Ipv6Addr,
    program: PathBuf,
}

impl Gateway {
    /// Runs `overlay-gw up ORDER ARGS…` and waits until it is ready.
    ///
    /// # Errors
    /// When it ends before, or its line is not as documented.
    pub fn up(programs: &Programs, host: &Host, order: &str, args: &[&str]) -> Result<Self> {
        let mut process = Self::start(programs, host, order, args)?;
        let line = process.wait_line(START_MAX, |line| Self::is_ready(order, line))?;
        let (ipv4, ipv6) = buyer_addresses(&line)
            .with_context(|| format!("overlay-gw printed a line of another form: {line}"))?;
        Ok(Self {
            host: host.clone(),
            process,
            order: order.to_owned(),
            line,
            ipv4,
            ipv6,
            program: programs.gateway.clone(),
        })
    }

    /// Starts `overlay-gw up` without waiting for anything.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(programs: &Programs, host: &Host, order: &str, args: &[&str]) -> Result<Process> {
        let state = state_of(host);
        let mut all = vec!["up", order, "--state", &state];
        all.extend(args);
        host.spawn(&programs.gateway, all)
    }

    /// Tells whether it is the line that `up` prints when ready.
    #[must_use]
    pub fn is_ready(order: &str, line: &str) -> bool {
        line.strip_prefix(order).is_some_and(|rest| rest.starts_with("  "))
    }

    /// Runs another command of `overlay-gw` beside it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn cli(&self, args: &[&str]) -> Result<Output> {
        let state = state_of(&self.host);
        self.host.output(&self.program, args.iter().copied().chain(["--state", &state]))
    }

    /// Runs another command of `overlay-gw` and returns what it printed.
    ///
    /// # Errors
    /// When it does not succeed.
    pub fn ask(&self, args: &[&str]) -> Result<String> {
        let output = self.cli(args)?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "overlay-gw {args:?}: {} {stderr}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Makes one more ticket and returns its text.
    ///
    /// # Errors
    /// When `overlay-gw invite` does not succeed.
    pub fn invite(&self) -> Result<String> {
        Ok(self.ask(&["invite", &self.order])?.trim().to_owned())
    }

    /// Makes one more ticket in a file and returns it as the seller's argument, `@FILE`.
    ///
    /// # Errors
    /// When `overlay-gw invite` does not succeed.
    pub fn invite_file(&self) -> Result<String> {
        let file = tempfile::Builder::new()
            .prefix("ticket-")
            .tempfile_in(self.host.dir())?
            .into_temp_path()
            .keep()?;
        std::fs::write(&file, self.invite()?)?;
        Ok(format!("@{}", file.display()))
    }

    /// Returns the `@FILE` that `--invite` has written for a guest.
    #[must_use]
    pub fn ticket_file(&self, guest: &str) -> String {
        let file = self.host.dir().join(format!("{}-{guest}.ovl", self.order));
        format!("@{}", file.display())
    }
}

/// A running `overlay-seller join` and the namespace it serves.
#[derive(Debug)]
pub struct Guest {
    /// The namespace.
    pub seat: Host,
    /// The host where the seller's program runs.
    pub seller: Host,
    /// That program.
    pub process: Process,
    /// The guest's name in its order.
    pub name: String,
    /// Its address.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address.
    pub ipv6: Ipv6Addr,
    /// What the program printed when data had passed both ways.
    pub line: String,
    /// From the program's start to that line.
    pub took: Duration,
}

impl Guest {
    /// Runs `overlay-seller join TICKET --attach netns:SEAT ARGS…` and waits until it is there.
    ///
    /// # Errors
    /// When it ends before, or its line is not as documented.
    pub fn join(
        programs: &Programs,
        seller: &Host,
        seat: &Host,
        ticket: &str,
        args: &[&str],
    ) -> Result<Self> {
        let started = Instant::now();
        let mut process = Self::start(programs, seller, seat, ticket, args)?;
        let line = process.wait_line(START_MAX, Self::is_there)?;
        let took = started.elapsed();
        let mut fields = line.split("  ");
        let mut addresses = || {
            let name = fields.next()?.to_owned();
            Some((name, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        };
        let (name, ipv4, ipv6) = addresses()
            .with_context(|| format!("overlay-seller printed a line of another form: {line}"))?;
        Ok(Self {
            seat: seat.clone(),
            seller: seller.clone(),
            process,
            name,
            ipv4,
            ipv6,
            line,
            took,
        })
    }

    /// Starts `overlay-seller join` without waiting for anything.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        programs: &Programs,
        seller: &Host,
        seat: &Host,
        ticket: &str,
        args: &[&str],
    ) -> Result<Process> {
        let attach = format!("netns:{}", seat.netns());
        let state = state_of(seller);
        let mut all = vec!["join", ticket, "--attach", &attach, "--state", &state];
        all.extend(args);
        seller.spawn(&programs.seller, all)
    }

    /// Tells whether it is the line that `join` prints when data has passed both ways.
    #[must_use]
    pub fn is_there(line: &str) -> bool {
        line.contains("  order ") && line.contains(" in netns ")
    }

    /// Returns both its addresses, IPv4 first.
    #[must_use]
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.ipv4.into(), self.ipv6.into()]
    }
}

/// Returns the state directory of a host's programs.
#[must_use]
pub fn state_of(host: &Host) -> String {
    Path::new(host.dir()).join("state").display().to_string()
}

/// Reads `farm  10.77.0.0/24  fd3a:…::/64  you are 10.77.0.2  …`; the buyer is host number 2.
fn buyer_addresses(line: &str) -> Option<(Ipv4Addr, Ipv6Addr)> {
    let mut fields = line.split("  ").skip(2);
    let prefix: Ipv6Addr = fields.next()?.strip_suffix("/64")?.parse().ok()?;
    let ipv4 = fields.find_map(|field| field.strip_prefix("you are "))?.parse().ok()?;
    Some((ipv4, Ipv6Addr::from(u128::from(prefix) | 2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateways_line_names_the_buyer() {
        let line = "farm  10.77.0.0/24  fd3a:1:2:3::/64  you are 10.77.0.2  port 7770 udp+tcp";
        let ipv6 = "fd3a:1:2:3::2".parse().expect("an address");
        assert_eq!(buyer_addresses(line), Some((Ipv4Addr::new(10, 77, 0, 2), ipv6)));
        assert_eq!(buyer_addresses("farm  10.77.0.0/24"), None);
    }
}
