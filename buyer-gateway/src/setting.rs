//! Options of an order as users type them: `mtu=1400`, `broadcast=off`, `rate=100M`, `life=5m`,
//! `dns=10.77.0.2`, `routes=192.168.9.0/24:10.77.0.2`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use overlay::duration;
use overlay_proto::control::Limits;
use overlay_proto::grant::{LIFE_MAX_S, LIFE_MIN_S};
use overlay_proto::order::{DNS_MAX, MTU_MAX, MTU_MIN, ROUTES_MAX, Route};
use overlay_proto::registry::Options;
use serde::{Deserialize, Serialize};
use vde_switch::station::Broadcast;

/// Smallest rate, in bits a second: below it a guest's first frames already wait.
const RATE_MIN: u64 = 100_000;
/// Largest rate, in bits a second: beyond every link, so that nobody mistakes a unit.
const RATE_MAX: u64 = 1_000_000_000_000;

/// One option and its new value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Setting {
    /// MTU of all stations.
    Mtu(u16),
    /// Whether group traffic is carried.
    Broadcast(bool),
    /// Bits a second that each guest may send; 0 for no limit.
    Rate(u64),
    /// Seconds for which a grant is believed.
    Life(u16),
    /// Whom guests ask for names; nobody if empty.
    Dns(Vec<IpAddr>),
    /// Networks that guests are told of; none if empty.
    Routes(Vec<Route>),
}

/// Why a text is no setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SettingError(&'static str);

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "mtu" => write!(f, "write a number of bytes from {MTU_MIN} to {MTU_MAX}"),
            "broadcast" => f.write_str("write on or off"),
            "rate" => f.write_str("write bits a second such as 500k, 100M or 2G, or off"),
            "life" => write!(f, "write a time from {LIFE_MIN_S}s to {}m", LIFE_MAX_S / 60),
            "dns" => {
                write!(f, "write up to {DNS_MAX} addresses such as 10.77.0.2,10.77.0.3, or off")
            }
            "routes" => write!(
                f,
                "write up to {ROUTES_MAX} networks with whom they are behind, such as \
                 192.168.9.0/24:10.77.0.10, or off"
            ),
            _ => f.write_str("write mtu=, broadcast=, rate=, life=, dns= or routes= and a value"),
        }
    }
}

impl std::error::Error for SettingError {}

impl FromStr for Setting {
    type Err = SettingError;

    fn from_str(text: &str) -> Result<Self, SettingError> {
        let (name, value) = text.split_once('=').ok_or(SettingError(""))?;
        match name {
            "mtu" => {
                let mtu = value.parse().ok().filter(|mtu| (MTU_MIN..=MTU_MAX).contains(mtu));
                mtu.map(Self::Mtu).ok_or(SettingError("mtu"))
            }
            "broadcast" => match value {
                "on" => Ok(Self::Broadcast(true)),
                "off" => Ok(Self::Broadcast(false)),
                _ => Err(SettingError("broadcast")),
            },
            "rate" => rate(value).map(Self::Rate).ok_or(SettingError("rate")),
            "life" => {
                let seconds = duration::parse(value).ok().map(|life| life.as_secs());
                let seconds = seconds.and_then(|seconds| u16::try_from(seconds).ok());
                let life = seconds.filter(|life| (LIFE_MIN_S..=LIFE_MAX_S).contains(life));
                life.map(Self::Life).ok_or(SettingError("life"))
            }
            "dns" => list(value, DNS_MAX, |text| text.parse().ok())
                .map(Self::Dns)
                .ok_or(SettingError("dns")),
            "routes" => {
                list(value, ROUTES_MAX, route).map(Self::Routes).ok_or(SettingError("routes"))
            }
            _ => Err(SettingError("")),
        }
    }
}

/// Reads `off`, or up to `count_max` things between commas.
fn list<T>(text: &str, count_max: usize, read: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    if text == "off" {
        return Some(Vec::new());
    }
    let things = text.split(',').map(read).collect::<Option<Vec<T>>>()?;
    (things.len() <= count_max).then_some(things)
}

/// Reads `NETWORK/PREFIX:STATION`; whether they make sense, the order's subnet decides.
fn route(text: &str) -> Option<Route> {
    let (network, via) = text.split_once(':')?;
    let (network, prefix) = network.split_once('/')?;
    let digits = prefix.bytes().all(|byte| byte.is_ascii_digit());
    let prefix = prefix.parse().ok().filter(|prefix| digits && *prefix <= 32)?;
    Some((network.parse().ok()?, prefix, via.parse().ok()?))
}

/// Reads `off`, or bits a second with a unit.
fn rate(text: &str) -> Option<u64> {
    if text == "off" {
        return Some(0);
    }
    let unit = match text.as_bytes().last()? {
        b'k' | b'K' => 1_000,
        b'M' => 1_000_000,
        b'G' => 1_000_000_000,
        _ => 1,
    };
    let number = if unit == 1 { text } else { &text[..text.len() - 1] };
    let rate = number.parse::<u64>().ok()?.checked_mul(unit)?;
    (RATE_MIN..=RATE_MAX).contains(&rate).then_some(rate)
}

/// Returns what the registry is to change; of two settings of one option the later counts.
pub(crate) fn options(settings: &[Setting]) -> Options {
    let mut options = Options::default();
    for setting in settings {
        match setting {
            Setting::Mtu(mtu) => options.mtu = Some(*mtu),
            Setting::Broadcast(on) => {
                options.broadcast = Some(if *on { Broadcast::On } else { Broadcast::Off });
            }
            Setting::Rate(bits) => {
                options.limits = Some(Limits { bytes_per_s: *bits / 8, ..Limits::NONE });
            }
            Setting::Life(seconds) => options.life_s = Some(*seconds),
            Setting::Dns(servers) => options.dns = Some(servers.clone()),
            Setting::Routes(routes) => options.routes = Some(routes.clone()),
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_with_their_units() {
        let v6 = "fd3a::2".parse().expect("an address");
        for (text, expected) in [
            ("mtu=1400", Setting::Mtu(1400)),
            ("broadcast=off", Setting::Broadcast(false)),
            ("rate=100M", Setting::Rate(100_000_000)),
            ("rate=500k", Setting::Rate(500_000)),
            ("rate=off", Setting::Rate(0)),
            ("life=5m", Setting::Life(300)),
            ("dns=off", Setting::Dns(Vec::new())),
            ("dns=10.77.0.2,fd3a::2", Setting::Dns(vec![[10, 77, 0, 2].into(), v6])),
            ("routes=off", Setting::Routes(Vec::new())),
            (
                "routes=192.168.9.0/24:10.77.0.2",
                Setting::Routes(vec![([192, 168, 9, 0].into(), 24, [10, 77, 0, 2].into())]),
            ),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_setting_is_refused_with_what_to_write() {
        for (text, words) in [
            ("mtu=1279", "1280 to 9000"),
            ("mtu=9001", "1280 to 9000"),
            ("mtu=", "1280 to 9000"),
            ("broadcast=maybe", "on or off"),
            ("rate=1", "bits a second"),
            ("rate=-5M", "bits a second"),
            ("rate=99999999999999999G", "bits a second"),
            ("rate=5€", "bits a second"),
            ("rate=", "bits a second"),
            ("life=9s", "10s to 15m"),
            ("life=16m", "10s to 15m"),
            ("dns=", "up to 4 addresses"),
            ("dns=one.one", "up to 4 addresses"),
            ("dns=10.0.0.1,", "up to 4 addresses"),
            ("dns=::1,::1,::1,::1,::1", "up to 4 addresses"),
            ("routes=", "up to 8 networks"),
            ("routes=10.0.0.0/8", "up to 8 networks"),
            ("routes=10.0.0.0/33:10.77.0.2", "up to 8 networks"),
            ("routes=10.0.0.0/+8:10.77.0.2", "up to 8 networks"),
            ("routes=10.0.0.0/8:fd3a::2", "up to 8 networks"),
            ("colour=red", "mtu="),
            ("mtu", "mtu="),
            ("", "mtu="),
        ] {
            let error = text.parse::<Setting>().expect_err(text).to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn the_later_of_two_settings_counts() {
        let settings = ["mtu=1400", "rate=8M", "mtu=1300"].map(|text| text.parse().expect(text));
        let options = options(&settings);
        assert_eq!(options.mtu, Some(1300));
        assert_eq!(options.limits.map(|limits| limits.bytes_per_s), Some(1_000_000));
        assert_eq!((options.broadcast, options.life_s), (None, None));
    }
}
