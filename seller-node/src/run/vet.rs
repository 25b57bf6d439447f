//! Which QEMU command lines run: the seller types them, but often as the buyer has sent them.
//!
//! # Theory of operation
//! An allow-list. Each word is either known here with all that it may say, or the line is refused
//! before anything is opened or anybody is contacted; the error names the word and says why. What
//! passes becomes a [`Machine`]: QEMU's words written anew from what was understood, with places
//! for the files, which this program opens itself ([`super::files`]).
//!
//! # Limits
//! It looks at words, not at files; whether a file is what it is said to be is found out when it is
//! opened. It is the first line of defence: behind it QEMU has no network, no rights, no files.

mod opts;
mod tables;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use self::opts::Opts;
use self::tables::{
    DEVICES, DRIVE, GLOBALS, OBJECTS, OPTIONS, PROPERTIES, REACHING, REFUSED, Rule,
};

/// Most words of a line.
const WORDS_MAX: usize = 256;
/// Longest text for the guest's kernel, in bytes.
const APPEND_LEN_MAX: usize = 4096;
/// Longest list of what is known that is repeated to the user.
const LISTED_MAX: usize = 12;
/// What names of this program's own things begin with.
const OWN_PREFIX: &str = "ovl";

/// A machine that may run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    /// The program, as typed: a name or a path.
    pub(crate) program: String,
    /// QEMU's arguments.
    pub(crate) words: Vec<Word>,
    /// The files that are opened for it.
    pub(crate) files: Vec<FileWanted>,
    /// By which accelerators, if the line says so.
    pub(crate) accel: Option<String>,
}

/// One argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// As it is.
    Text(String),
    /// With the place of a file, by its number, between two texts.
    File(String, usize, String),
}

/// A file that the machine needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileWanted {
    pub(crate) path: PathBuf,
    pub(crate) kind: FileKind,
}

/// What a file is to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    Kernel,
    Initrd,
    Bios,
    Dtb,
    Disk(Format, Access),
}

/// How a disk's bytes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Raw,
    Qcow2,
}

/// What is done with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// It is read.
    Read,
    /// It is read, and what the guest writes is thrown away.
    Snapshot,
    /// It is written.
    Write,
}

/// Why a line does not run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum VetError {
    /// There is nothing after `--`.
    #[error("no program to run: write -- qemu-system-x86_64 and its options")]
    Empty,
    /// Another program.
    #[error("{0:?} is not run: only qemu-system-x86_64 and its like are")]
    Program(String),
    /// A word that says what must not be.
    #[error("the argument {argument} is refused: {reason}")]
    Refused {
        /// The option, or the option and its value.
        argument: String,
        /// Why, and what to write instead.
        reason: String,
    },
}

fn refused<T>(argument: &str, reason: impl Into<String>) -> Result<T, VetError> {
    let shown: String = argument.chars().take(120).flat_map(char::escape_debug).collect();
    Err(VetError::Refused { argument: shown, reason: reason.into() })
}

/// Looks at a command line.
///
/// # Errors
/// [`VetError`] for the first word that must not be there.
pub(crate) fn vet(line: &[String]) -> Result<Machine, VetError> {
    let Some((program, words)) = line.split_first() else {
        return Err(VetError::Empty);
    };
    if words.len() > WORDS_MAX {
        return refused(&words[WORDS_MAX], format!("a line has at most {WORDS_MAX} words"));
    }
    let name = program.rsplit('/').next().unwrap_or_default();
    let known = name.strip_prefix("qemu-system-").is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    });
    if !known || (program.contains('/') && !program.starts_with('/')) {
        return Err(VetError::Program(program.chars().take(120).collect()));
    }
    let all_snapshots = words.iter().any(|word| matches!(bare(word), Some("snapshot")));
    let mut machine =
        Machine { program: program.clone(), words: Vec::new(), files: Vec::new(), accel: None };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some(option) = bare(word) else {
            return refused(word, "write an image as -drive file=FILE,format=raw (or qcow2)");
        };
        machine.option(option, &mut words, all_snapshots)?;
    }
    Ok(machine)
}

/// Returns an option's name: QEMU takes one dash or two.
fn bare(word: &str) -> Option<&str> {
    word.strip_prefix("--").or_else(|| word.strip_prefix('-')).filter(|name| !name.is_empty())
}

fn known_options() -> String {
    let mut names: Vec<_> = OPTIONS.iter().map(|(name, _)| format!("-{name}")).collect();
    names.sort_unstable();
    names.join(" ")
}

/// Whether a value reaches nothing: no path, no control character.
fn is_plain(value: &str) -> bool {
    !value.chars().any(|c| c == '/' || c.is_control())
}

impl Machine {
    fn option<'a>(
        &mut self,
        option: &str,
        words: &mut impl Iterator<Item = &'a String>,
        all_snapshots: bool,
    ) -> Result<(), VetError> {
        let dashed = format!("-{option}");
        let Some((_, rule)) = OPTIONS.iter().find(|(name, _)| *name == option) else {
            return match REFUSED.iter().find(|(name, _)| *name == option) {
                Some((_, why)) => refused(&dashed, *why),
                None => refused(&dashed, format!("it is not among {}", known_options())),
            };
        };
        if matches!(rule, Rule::Flag | Rule::Left | Rule::EnableKvm | Rule::Snapshot) {
            match rule {
                Rule::Flag => self.words.push(Word::Text(dashed)),
                Rule::EnableKvm => self.accel("kvm"),
                _ => {}
            }
            return Ok(());
        }
        let Some(value) = words.next() else {
            return refused(&dashed, "its value is missing");
        };
        let both = format!("{dashed} {value}");
        let said = match rule {
            Rule::LeftIf(values, why) => match values.contains(&value.as_str()) {
                true => Ok(()),
                false => Err((*why).to_owned()),
            },
            Rule::Keys(keys) => self.keys(&dashed, value, keys),
            Rule::Word => self.word(&dashed, value),
            Rule::Append => self.append(&dashed, value),
            Rule::File(kind) => self.file(&dashed, value, *kind),
            Rule::Accel => self.accel_option(value),
            Rule::Drive => self.drive(value, all_snapshots),
            Rule::Device => self.device(value),
            Rule::Object => self.object(value),
            Rule::FwCfg => self.fw_cfg(value),
            Rule::Flag | Rule::Left | Rule::EnableKvm | Rule::Snapshot => Ok(()),
        };
        said.or_else(|reason| refused(&both, reason))
    }

    fn push(&mut self, option: &str, value: impl Into<String>) {
        self.words.push(Word::Text(option.to_owned()));
        self.words.push(Word::Text(value.into()));
    }

    fn accel(&mut self, value: &str) {
        self.accel = Some(value.to_owned());
        self.push("-accel", value);
    }

    fn keys(&mut self, option: &str, value: &str, keys: &[&str]) -> Result<(), String> {
        let opts = Opts::parse(value, keys.first().copied())?;
        check_keys(&opts, keys)?;
        // Texts of the SMBIOS tables are the guest's to read, no names of files.
        if option != "-smbios" {
            check_values(&opts)?;
        } else if opts.get("type").is_none() {
            return Err("it begins with type=NUMBER".to_owned());
        }
        if let Some(accel) = opts.get("accel") {
            if !accel.split(':').all(|accel| matches!(accel, "kvm" | "tcg")) {
                return Err("the accelerator is kvm or tcg".to_owned());
            }
            self.accel = Some(accel.to_owned());
        }
        self.push(option, opts.write());
        Ok(())
    }

    fn word(&mut self, option: &str, value: &str) -> Result<(), String> {
        if !is_plain(value) || value.is_empty() || value.starts_with('-') {
            return Err("it is to be a plain word".to_owned());
        }
        if option == "-global" && !GLOBALS.iter().any(|start| value.starts_with(start)) {
            return Err(format!("settings begin with one of {}", GLOBALS.join(" ")));
        }
        if option == "-usbdevice" && !matches!(value, "tablet" | "mouse" | "keyboard") {
            return Err("it is tablet, mouse or keyboard".to_owned());
        }
        self.push(option, value);
        Ok(())
    }

    fn append(&mut self, option: &str, value: &str) -> Result<(), String> {
        if value.len() > APPEND_LEN_MAX {
            return Err(format!("it is longer than {APPEND_LEN_MAX} bytes"));
        }
        self.push(option, value);
        Ok(())
    }

    fn file(&mut self, option: &str, value: &str, kind: FileKind) -> Result<(), String> {
        if self.files.iter().any(|file| file.kind == kind) {
            return Err("it is there twice".to_owned());
        }
        check_path(value)?;
        // With a comma, QEMU would take several files.
        if value.contains(',') {
            return Err("a comma must not be in the file's name".to_owned());
        }
        let file = self.want(value, kind);
        self.words.push(Word::Text(option.to_owned()));
        self.words.push(Word::File(String::new(), file, String::new()));
        Ok(())
    }

    fn want(&mut self, path: &str, kind: FileKind) -> usize {
        self.files.push(FileWanted { path: path.into(), kind });
        self.files.len() - 1
    }

    fn accel_option(&mut self, value: &str) -> Result<(), String> {
        let opts = Opts::parse(value, Some("accel"))?;
        check_keys(&opts, &["accel", "thread", "tb-size", "kernel-irqchip"])?;
        check_values(&opts)?;
        if !matches!(opts.get("accel"), Some("kvm" | "tcg")) {
            return Err("the accelerator is kvm or tcg".to_owned());
        }
        self.accel(&opts.write());
        Ok(())
    }

    fn drive(&mut self, value: &str, all_snapshots: bool) -> Result<(), String> {
        let mut opts = Opts::parse(value, None)?;
        let path = opts.take("file").ok_or("it needs file=FILE")?;
        check_path(&path)?;
        let format = match opts.take("format").as_deref() {
            Some("raw") => Format::Raw,
            Some("qcow2") => Format::Qcow2,
            Some(_) => return Err("format is raw or qcow2".to_owned()),
            None => {
                let why = "write format=raw or format=qcow2: a guest that could choose the format \
                           of its disk could read files of this host";
                return Err(why.to_owned());
            }
        };
        let is_snapshot = opts.take_bool("snapshot")?.unwrap_or(all_snapshots);
        let is_cdrom = opts.get("media") == Some("cdrom");
        let is_readonly = opts.take_bool("readonly")?.unwrap_or(is_cdrom);
        check_keys(&opts, &DRIVE)?;
        check_values(&opts)?;
        let access = match (is_snapshot, is_readonly) {
            (_, true) => Access::Read,
            (true, false) => Access::Snapshot,
            (false, false) => Access::Write,
        };
        let format_word = match format {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        };
        opts.push("format", format_word);
        match access {
            Access::Read => opts.push("readonly", "on"),
            Access::Snapshot => opts.push("snapshot", "on"),
            Access::Write => {}
        }
        // This program holds the locks, on the very descriptors that QEMU gets.
        opts.push("file.locking", "off");
        let file = self.want(&path, FileKind::Disk(format, access));
        self.words.push(Word::Text("-drive".to_owned()));
        self.words.push(Word::File("file=".to_owned(), file, format!(",{}", opts.write())));
        Ok(())
    }

    fn device(&mut self, value: &str) -> Result<(), String> {
        let opts = Opts::parse(value, Some("driver"))?;
        let driver = opts.get("driver").ok_or("the device is not named")?;
        if !DEVICES.contains(&driver) {
            return match REACHING.iter().find(|(part, _)| driver.contains(part)) {
                Some((_, why)) => Err((*why).to_owned()),
                None => Err(format!(
                    "{driver} is not known to end inside of QEMU: known are virtio-blk-pci, \
                     scsi-hd, ide-hd, nvme, usb-tablet, VGA and the like"
                )),
            };
        }
        check_keys(&opts, &PROPERTIES)?;
        check_values(&opts)?;
        self.push("-device", opts.write());
        Ok(())
    }

    fn object(&mut self, value: &str) -> Result<(), String> {
        let opts = Opts::parse(value, Some("qom-type"))?;
        let kind = opts.get("qom-type").unwrap_or_default();
        let Some((_, keys)) = OBJECTS.iter().find(|(name, _)| *name == kind) else {
            let known: Vec<_> = OBJECTS.iter().map(|(name, _)| *name).collect();
            return Err(format!("objects are {}", known.join(" ")));
        };
        check_keys(&opts, keys)?;
        check_values(&opts)?;
        self.push("-object", opts.write());
        Ok(())
    }

    fn fw_cfg(&mut self, value: &str) -> Result<(), String> {
        let opts = Opts::parse(value, Some("name"))?;
        check_keys(&opts, &["name", "string"])?;
        if !opts.get("name").is_some_and(|name| name.starts_with("opt/")) {
            return Err("its name begins with opt/".to_owned());
        }
        self.push("-fw_cfg", opts.write());
        Ok(())
    }
}

fn check_keys(opts: &Opts, keys: &[&str]) -> Result<(), String> {
    match opts.pairs().find(|(key, _)| !keys.contains(key)) {
        None => Ok(()),
        Some((key, _)) if keys.len() > LISTED_MAX => Err(format!("{key} must not be set here")),
        Some((key, _)) => Err(format!("{key} is not among {}", keys.join(" "))),
    }
}

fn check_values(opts: &Opts) -> Result<(), String> {
    for (key, value) in opts.pairs() {
        if !is_plain(value) {
            return Err(format!("{key} is to be a plain word"));
        }
        let names = matches!(key, "id" | "drive" | "rng" | "iothread" | "memory-backend");
        if names && value.starts_with(OWN_PREFIX) {
            return Err(format!("names that begin with {OWN_PREFIX} are this program's"));
        }
    }
    Ok(())
}

/// Refuses what QEMU would take for something else than a file, and what is no image anyway.
fn check_path(path: &str) -> Result<(), String> {
    let first = path.split('/').next().unwrap_or_default();
    if path.is_empty() || path.chars().any(char::is_control) {
        return Err("the file is to be named".to_owned());
    }
    if first.contains(':') {
        return Err("only files of this host are images: write ./ in front of a name with a \
                    colon"
            .to_owned());
    }
    for folder in ["/dev", "/proc", "/sys", "/run"] {
        if path == folder || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')) {
            return Err(format!("what is in {folder} is no image"));
        }
    }
    Ok(())
}
