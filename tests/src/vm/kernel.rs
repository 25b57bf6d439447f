//! A Linux kernel of this machine with the modules that a guest needs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::unpacked_dir;

/// A kernel image and where its modules are.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// What QEMU's `-kernel` takes.
    pub image: PathBuf,
    /// Such as `6.1.0-48-cloud-amd64`.
    pub version: String,
    modules: PathBuf,
}

impl Kernel {
    /// Finds the newest Debian kernel: in the cache, where deploy/preflight.sh unpacks one without
    /// installing it, else an installed one; those made for clouds, which start faster, first.
    ///
    /// # Errors
    /// When there is none.
    pub fn find() -> Result<Self> {
        let mut found = Vec::new();
        for root in [unpacked_dir()?, PathBuf::from("/")] {
            let entries = fs::read_dir(root.join("boot")).into_iter().flatten().flatten();
            for entry in entries {
                let name = entry.file_name().to_string_lossy().into_owned();
                let Some(version) = name.strip_prefix("vmlinuz-") else { continue };
                let modules = root.join("lib/modules").join(version).join("kernel");
                if modules.is_dir() {
                    let version = version.to_owned();
                    found.push(Self { image: entry.path(), version, modules });
                }
            }
        }
        found.sort_by_key(|one| (one.version.contains("-cloud-"), one.version.clone()));
        found
            .pop()
            .context("no Linux kernel with modules is here for guests: run deploy/preflight.sh")
    }

    /// Returns the files of the named modules and of all that they rest on, in the order in which
    /// they can be loaded. A module that is built in has no file.
    ///
    /// # Errors
    /// When a module cannot be read, or is compressed.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let mut files = BTreeMap::new();
        index(&self.modules, &mut files)?;
        let mut order = Vec::new();
        for name in names {
            load(name, &files, &mut order)?;
        }
        Ok(order)
    }
}

/// Collects all modules below a directory by the names that they have for each other.
fn index(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            index(&path, files)?;
        } else if let Some((stem, _)) = path.file_name().and_then(|n| n.to_str()?.split_once(".ko"))
        {
            files.insert(stem.replace('-', "_"), path);
        }
    }
    Ok(())
}

/// Appends a module behind what it depends on, each once.
fn load(name: &str, files: &BTreeMap<String, PathBuf>, order: &mut Vec<PathBuf>) -> Result<()> {
    let Some(path) = files.get(&name.replace('-', "_")) else { return Ok(()) };
    if order.contains(path) {
        return Ok(());
    }
    ensure!(path.extension().is_some_and(|end| end == "ko"), "{} is compressed", path.display());
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    for other in depends(&bytes) {
        load(&other, files, order)?;
    }
    order.push(path.clone());
    Ok(())
}

/// Reads a module's own list of the modules that it uses: `depends=a,b` in its `.modinfo`.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let list = module[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let list = String::from_utf8_lossy(list);
    list.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_names_what_it_depends_on() {
        assert_eq!(
            depends(b"ELF\0license=GPL\0depends=virtio,failover\0x"),
            ["virtio", "failover"]
        );
        assert!(depends(b"\0depends=\0").is_empty() && depends(b"none").is_empty());
    }
}
