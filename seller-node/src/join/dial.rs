//! Where the gateway may be dialled: the ticket's addresses, names looked up, by the dial rules.

use std::net::SocketAddr;
use std::time::Duration;

use overlay::exit::{Exit, Fault};
use overlay_proto::control::AddressTrust;
use overlay_proto::dial::DialRules;
use overlay_proto::ticket::{ADDRESSES_MAX, DialAddr};
use tokio::net::lookup_host;
use tokio::time::timeout;

/// Longest wait for a name server.
const LOOKUP_AFTER_MAX: Duration = Duration::from_secs(5);

/// Returns the addresses that may be dialled, at most four.
pub(crate) async fn gateway_addresses(
    addresses: &[DialAddr],
    rules: &DialRules,
) -> anyhow::Result<Vec<SocketAddr>> {
    let mut allowed: Vec<SocketAddr> = Vec::new();
    let mut refused = Vec::new();
    for address in addresses.iter().take(ADDRESSES_MAX) {
        let found = match look_up(address).await {
            Ok(found) => found,
            Err(error) => {
                refused.push(format!("{address} cannot be looked up: {error}"));
                continue;
            }
        };
        for addr in found {
            match rules.check(addr, AddressTrust::Given) {
                Ok(addr) if allowed.contains(&addr) => {}
                Ok(addr) => allowed.push(addr),
                Err(error) => refused.push(error.to_string()),
            }
        }
    }
    allowed.truncate(ADDRESSES_MAX);
    if allowed.is_empty() {
        let text = format!("the gateway cannot be dialled: {}", refused.join("; "));
        return Err(Fault::new(Exit::Unreachable, text).into());
    }
    Ok(allowed)
}

async fn look_up(address: &DialAddr) -> std::io::Result<Vec<SocketAddr>> {
    match address {
        DialAddr::Ip(addr) => Ok(vec![*addr]),
        DialAddr::Name(host, port) => {
            let found = timeout(LOOKUP_AFTER_MAX, lookup_host((host.as_str(), *port))).await??;
            Ok(found.take(ADDRESSES_MAX).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use overlay_proto::dial::Lan;

    use super::*;

    fn allowed(lan: Lan) -> anyhow::Result<Vec<SocketAddr>> {
        let addresses: Vec<DialAddr> = ["192.0.2.1:7770", "127.0.0.1:7770"]
            .map(|text| text.parse().expect("an address"))
            .to_vec();
        let rules = DialRules { lan, links: vec![("192.0.2.2".parse().expect("an address"), 24)] };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(gateway_addresses(&addresses, &rules))
    }

    #[test]
    fn local_addresses_are_dialled_with_lan_only_and_loopback_never() {
        let lan = allowed(Lan::Allowed).expect("one address");
        assert_eq!(lan, ["192.0.2.1:7770".parse().expect("an address")]);
        let error = allowed(Lan::Refused).expect_err("no address");
        assert_eq!(overlay::exit::exit_of(error.chain()), Exit::Unreachable);
        assert!(error.to_string().contains("--lan"), "{error}");
    }
}
