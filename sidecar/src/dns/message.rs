//! DNS messages: reading queries, and responses of the size that the client accepts (RFC 1035, RFC 6891).

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::SRV;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::answer::PortOfHost;

/// The TTL of answers in seconds (Istio's).
const TTL: u32 = 30;
/// The length of a message's header.
const HEADER: usize = 12;
/// The length of the OPT record of a response.
const OPT: usize = 11;
/// The maximum size of a response over UDP without EDNS (RFC 1035 §4.2.1).
const PLAIN_UDP: u16 = 512;
/// The largest size of a message over UDP that this server reads, and sends to clients that accept it.
pub(super) const MAX_UDP: u16 = 4096;

/// A query with one question.
pub(super) struct Query {
    message: Message,
    name: String,
    /// The maximum size of the response.
    limit: u16,
}

impl Query {
    /// Reads a query. Returns what is to be responded otherwise: an error, or nothing if the message is not a query.
    pub(super) fn read(bytes: &[u8], over_tcp: bool) -> Result<Self, Option<Vec<u8>>> {
        let Ok(message) = Message::from_vec(bytes) else { return Err(malformed(bytes)) };
        if message.metadata.message_type != MessageType::Query {
            return Err(None);
        }
        let accepted = message.edns.as_ref().map_or(PLAIN_UDP, |edns| edns.max_payload().clamp(PLAIN_UDP, MAX_UDP));
        let limit = if over_tcp { u16::MAX } else { accepted };
        let name = message.queries.first().map(|question| question.name().to_ascii()).unwrap_or_default();
        let query = Query { message, name, limit };
        let error = if query.message.metadata.op_code != OpCode::Query {
            ResponseCode::NotImp
        } else if query.message.queries.len() != 1 {
            ResponseCode::FormErr
        } else if query.message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            ResponseCode::BADVERS
        } else {
            return Ok(query);
        };
        Err(query.error(error))
    }

    /// Returns the queried name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the queried type.
    pub(super) fn record_type(&self) -> RecordType {
        self.message.queries[0].query_type()
    }

    /// Returns the queried class.
    pub(super) fn class(&self) -> DNSClass {
        self.message.queries[0].query_class()
    }

    /// Returns the response with these addresses, in another order each time: most clients use the first one.
    pub(super) fn addresses(&self, addresses: &[IpAddr]) -> Option<Vec<u8>> {
        let data = addresses.iter().map(|address| match address {
            IpAddr::V4(address) => RData::A((*address).into()),
            IpAddr::V6(address) => RData::AAAA((*address).into()),
        });
        self.records(data.collect())
    }

    /// Returns the response with these ports.
    pub(super) fn ports(&self, ports: &[PortOfHost]) -> Option<Vec<u8>> {
        let data = ports.iter().filter_map(|PortOfHost { port, host }| {
            Some(RData::SRV(SRV::new(0, 100, *port, Name::from_ascii(format!("{host}.")).ok()?)))
        });
        self.records(data.collect())
    }

    /// Returns a response that the query failed.
    pub(super) fn failure(&self) -> Option<Vec<u8>> {
        self.error(ResponseCode::ServFail)
    }

    fn error(&self, code: ResponseCode) -> Option<Vec<u8>> {
        self.response(code).to_vec().ok()
    }

    fn records(&self, mut data: Vec<RData>) -> Option<Vec<u8>> {
        if data.len() > 1 {
            let first = rand::random_range(0..data.len());
            data.rotate_left(first);
        }
        let mut response = self.response(ResponseCode::NoError);
        response.metadata.authoritative = true;
        let name = self.message.queries[0].name();
        response.answers = data.into_iter().map(|data| Record::from_rdata(name.clone(), TTL, data)).collect();
        self.within_limit(response)
    }

    /// Encodes a response. If it is too long, it has as many records as fit, and TC, at which clients query over TCP.
    fn within_limit(&self, mut response: Message) -> Option<Vec<u8>> {
        loop {
            let bytes = response.to_vec().ok()?;
            let (length, records) = (bytes.len(), response.answers.len());
            if length <= self.limit.into() || records == 0 {
                return Some(bytes);
            }
            let room = usize::from(self.limit).saturating_sub(HEADER + OPT);
            response.answers.truncate((records * room / length).min(records - 1));
            response.metadata.truncation = true;
        }
    }

    fn response(&self, code: ResponseCode) -> Message {
        let query = &self.message;
        let mut response = Message::new(query.metadata.id, MessageType::Response, query.metadata.op_code);
        response.metadata.recursion_desired = query.metadata.recursion_desired;
        response.metadata.recursion_available = true;
        response.metadata.response_code = code;
        response.add_queries(query.queries.iter().cloned());
        response.edns = query.edns.as_ref().map(|of_query| {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_UDP).set_dnssec_ok(of_query.flags().dnssec_ok);
            edns
        });
        response
    }
}

/// Returns the addresses in a response, with the names that have them.
pub(super) fn addresses(response: &[u8]) -> Vec<(String, IpAddr)> {
    let answers = Message::from_vec(response).map(|message| message.answers).unwrap_or_default();
    let address = |record: &Record| {
        let address = match &record.data {
            RData::A(address) => IpAddr::V4(address.0),
            RData::AAAA(address) => IpAddr::V6(address.0),
            _ => return None,
        };
        Some((record.name.to_ascii(), address))
    };
    answers.iter().filter_map(address).collect()
}

/// Returns the response to a query that cannot be read: `FORMERR` with its ID, if it has a header.
fn malformed(bytes: &[u8]) -> Option<Vec<u8>> {
    const RESPONSE: u8 = 0x80;
    const OPCODE_AND_RECURSION_DESIRED: u8 = 0x79;
    const FORMERR: u8 = 1;
    let header = bytes.get(..HEADER).filter(|header| header[2] & RESPONSE == 0)?;
    let mut response = vec![0; HEADER];
    response[..2].copy_from_slice(&header[..2]);
    response[2] = RESPONSE | (header[2] & OPCODE_AND_RECURSION_DESIRED);
    response[3] = FORMERR;
    Some(response)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::Ipv4Addr;

    use super::*;
    use hickory_proto::op;

    fn question(edns: Option<u16>) -> Message {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        let name = Name::from_ascii("Db.default.svc.cluster.local.").unwrap();
        message.add_query(op::Query::query(name, RecordType::A));
        message.edns = edns.map(|size| {
            let mut edns = Edns::new();
            edns.set_max_payload(size).set_dnssec_ok(true);
            edns
        });
        message
    }

    fn read(message: &Message, over_tcp: bool) -> Query {
        Query::read(&message.to_vec().unwrap(), over_tcp).ok().unwrap()
    }

    fn pods(count: u8) -> Vec<IpAddr> {
        (1..=count).map(|last| Ipv4Addr::new(10, 244, 0, last).into()).collect()
    }

    /// Returns the size of a response and its content.
    fn parsed(bytes: Option<Vec<u8>>) -> (usize, Message) {
        let bytes = bytes.unwrap();
        (bytes.len(), Message::from_vec(&bytes).unwrap())
    }

    #[test]
    fn responses_repeat_the_query() {
        let message = question(None);
        let (_, answer) = parsed(read(&message, false).addresses(&["10.0.0.1".parse().unwrap()]));
        assert_eq!((answer.metadata.id, answer.metadata.response_code), (7, ResponseCode::NoError));
        assert!(answer.metadata.authoritative && answer.metadata.recursion_desired && answer.edns.is_none());
        assert_eq!(answer.queries, message.queries);
        assert_eq!(answer.queries[0].name().to_ascii(), "Db.default.svc.cluster.local.");
        assert_eq!(answer.answers[0].data, RData::A(Ipv4Addr::new(10, 0, 0, 1).into()));
        let (_, failed) = parsed(read(&message, false).failure());
        assert_eq!((failed.metadata.response_code, failed.answers.len()), (ResponseCode::ServFail, 0));
    }

    #[test]
    fn a_response_is_as_long_as_the_client_accepts_and_says_what_is_missing() {
        for (edns, over_tcp, expected) in [(None, false, 512), (Some(100), false, 512), (Some(600), false, 600)] {
            let query = read(&question(edns), over_tcp);
            let (length, response) = parsed(query.addresses(&pods(40)));
            assert!(length <= expected && length + 16 > expected - HEADER - OPT, "{edns:?}: {length} bytes");
            assert!(response.metadata.truncation && response.answers.len() < 40);
            assert_eq!(response.edns.is_some(), edns.is_some());
        }
        for (edns, over_tcp) in [(Some(1232), false), (None, true), (Some(512), true)] {
            let (_, response) = parsed(read(&question(edns), over_tcp).addresses(&pods(40)));
            assert!(!response.metadata.truncation && response.answers.len() == 40, "{edns:?}");
            if let Some(edns) = &response.edns {
                assert!(edns.flags().dnssec_ok && edns.max_payload() == MAX_UDP && edns.version() == 0);
            }
        }
    }

    #[test]
    fn addresses_rotate() {
        let query = read(&question(None), false);
        let pods = pods(4);
        let first = |_| parsed(query.addresses(&pods)).1.answers[0].data.clone();
        // The chance that one of four is missing among a hundred is 10⁻¹².
        assert_eq!((0..100).map(first).collect::<HashSet<_>>().len(), 4);
    }

    #[test]
    fn a_port_has_an_srv_record() {
        let host = "db-0.db.default.svc.cluster.local".to_owned();
        let (_, response) = parsed(read(&question(None), false).ports(&[PortOfHost { port: 9091, host }]));
        let RData::SRV(srv) = &response.answers[0].data else { panic!("{response:?}") };
        assert_eq!((srv.port, srv.target.to_ascii().as_str()), (9091, "db-0.db.default.svc.cluster.local."));
    }

    #[test]
    fn what_is_not_a_query_with_one_question_is_refused_with_the_reason() {
        let refused = |bytes: &[u8]| Query::read(bytes, false).err().unwrap();
        // BADVERS and BADSIG have the same number.
        let code = |message: &Message| u16::from(parsed(refused(&message.to_vec().unwrap())).1.metadata.response_code);
        let mut none = question(None);
        none.queries.clear();
        assert_eq!(code(&none), u16::from(ResponseCode::FormErr));
        let mut two = question(None);
        two.add_queries(question(None).queries);
        assert_eq!(code(&two), u16::from(ResponseCode::FormErr));
        let mut notify = question(None);
        notify.metadata.op_code = OpCode::Notify;
        assert_eq!(code(&notify), u16::from(ResponseCode::NotImp));
        let mut future = question(Some(1232));
        future.edns.as_mut().unwrap().set_version(1);
        assert_eq!(code(&future), u16::from(ResponseCode::BADVERS));

        let whole = question(None).to_vec().unwrap();
        let (length, cut) = parsed(refused(&whole[..whole.len() - 3]));
        assert_eq!((length, cut.metadata.id, cut.metadata.response_code), (HEADER, 7, ResponseCode::FormErr));
        assert!(cut.metadata.recursion_desired && cut.metadata.message_type == MessageType::Response);
        assert_eq!(refused(&whole[..HEADER - 1]), None);
        let mut response = question(None);
        response.metadata.message_type = MessageType::Response;
        assert_eq!(refused(&response.to_vec().unwrap()), None, "a response is not answered");
        let mut cut = whole[..HEADER + 2].to_vec();
        cut[2] |= 0x80;
        assert_eq!(refused(&cut), None);
    }
}
