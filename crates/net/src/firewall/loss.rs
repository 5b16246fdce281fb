//! Loss: a link that drops some of its packets, for labs. Many kernels lack the queueing discipline `netem`, but all that have
//! nftables can count at random.

use super::FirewallError;
use super::expression::{Expression, REGISTER32};
use super::rule::{NftRule, drop_packet, input_interface, output_interface, rule};
use super::table::{BEFORE_TRACKING, ChainType, ElementValue, Hook, NftTable};

const TABLE: &str = "isthmus-loss";
const LOST: &str = "lost";
/// The priority after all changes of addresses.
const LAST: i32 = 300;
/// The parts of a whole.
const WHOLE: u32 = 1000;

/// Makes a link of the calling thread's network namespace drop packets of both directions at random: `per_mille` of a
/// thousand, each way. Replaces an earlier loss.
///
/// # Errors
/// Returns an error if the process lacks `CAP_NET_ADMIN` over the namespace, or the kernel lacks nftables.
pub fn lose_packets(link: &str, per_mille: u16) -> Result<(), FirewallError> {
    let mut table = NftTable::replace(TABLE);
    let values = (0..u32::from(per_mille).min(WHOLE)).map(|value| (value.to_ne_bytes().to_vec(), ElementValue::None));
    let values: Vec<_> = values.collect();
    if !values.is_empty() {
        table.set(LOST, size_of::<u32>(), &values);
        table.base_chain("arriving", ChainType::Filter, Hook::Prerouting, BEFORE_TRACKING);
        table.base_chain("leaving", ChainType::Filter, Hook::Postrouting, LAST);
        table.rule("arriving", &rule([input_interface(link), is_lost(), drop_packet()]));
        table.rule("leaving", &rule([output_interface(link), is_lost(), drop_packet()]));
    }
    table.commit().map_err(|source| FirewallError::new("make a link lose packets", source))
}

fn is_lost() -> NftRule {
    vec![
        Expression::Random { below: WHOLE, register: REGISTER32 },
        Expression::Lookup { set: LOST.to_owned(), register: REGISTER32, into: None },
    ]
}
