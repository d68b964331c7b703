//! The fields that are needed to close the gate, read even if other fields of the config file are wrong:
//! such a mistake must not leave the node open.

use super::settings::{Settings, read};
use super::{DEFAULT_BPF_DIR, DEFAULT_MAX_NETWORKS, LogFormat};
use serde_yaml::Value;
use std::path::{Path, PathBuf};

/// The fields that say where the gate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Essentials {
    /// Folder of the pins.
    pub bpf_dir: PathBuf,
    /// Enforced roots; empty if they are not known.
    pub cgroups: Vec<PathBuf>,
    /// Networks that the tables have room for.
    pub max_networks: u32,
    /// Format of the error.
    pub log_format: LogFormat,
}

impl Essentials {
    /// The flags, then the fields that can be read from the file.
    pub fn of(flags: &Settings, file: &Path) -> Self {
        let text = read(file).unwrap_or_default();
        let value = serde_yaml::from_str::<Value>(&text).unwrap_or_default();
        let path = |value: &Value| value.as_str().map(PathBuf::from);
        let listed = value["cgroups"].as_sequence().into_iter().flatten();
        let cgroups = if flags.cgroups.is_empty() {
            listed.filter_map(path).collect()
        } else {
            flags.cgroups.clone()
        };
        let bpf_dir = flags.bpf_dir.clone().or_else(|| path(&value["bpfDir"]));
        let room = value["maxNetworks"].as_u64();
        let room = room.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
        let json = value["log"]["format"].as_str() == Some("json");
        let format = if json {
            LogFormat::Json
        } else {
            LogFormat::Text
        };
        Self {
            log_format: flags.log.format.unwrap_or(format),
            bpf_dir: bpf_dir.unwrap_or_else(|| DEFAULT_BPF_DIR.into()),
            cgroups,
            max_networks: flags.max_networks.or(room).unwrap_or(DEFAULT_MAX_NETWORKS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_elsewhere_hides_neither_roots_nor_pins() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.yaml");
        let text = "cgroups: [/a, /b]\nbpfDir: /pins\nproxyPort: many\nunknown: {x: 1}\n";
        std::fs::write(&file, text).unwrap();
        let known = Essentials::of(&Settings::default(), &file);
        assert_eq!(known.cgroups, [PathBuf::from("/a"), "/b".into()]);
        assert_eq!(known.bpf_dir, Path::new("/pins"));
        let flags = Settings {
            cgroups: vec!["/flag".into()],
            ..Settings::default()
        };
        assert_eq!(
            Essentials::of(&flags, &file).cgroups,
            [PathBuf::from("/flag")]
        );
        std::fs::write(&file, "cgroups: [/a\n").unwrap();
        let nothing = Essentials::of(&Settings::default(), &file);
        assert!(nothing.cgroups.is_empty(), "{nothing:?}");
        assert_eq!(nothing.bpf_dir, Path::new(DEFAULT_BPF_DIR));
    }
}
