//! The handshakes with a proxy: HTTP CONNECT (RFC 9110 section 9.3.6) and SOCKS 5 (RFC 1928, RFC 1929).
//!
//! ```text
//!  HTTP      Send(CONNECT) ──► Head ──2xx──► open
//!  SOCKS 5   Send(methods) ──► Method ──► [Send(user) ──► Login] ──► Send(connect) ──► Reply ──0──► open
//! ```
//!
//! The owner sends what [`Handshake::poll_send`] gives, reads, and hands every byte to [`Handshake::handle`], until
//! [`Handshake::is_open`]. Names are resolved by the proxy. What a proxy may make us hold is bounded by
//! [`HEAD_BYTES_MAX`]; a byte after its answer is refused: neither TLS nor MQTT lets a server speak first.

use std::net::IpAddr;
use std::str::FromStr;

/// The longest head of an HTTP answer that is read.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;
/// A code for "these credentials, or none, will not do": HTTP's own status, which SOCKS 5 has no word for.
pub const CREDENTIALS_WANTED: u16 = 407;
/// A code for a proxy that does not answer as proxies do.
pub const NO_ANSWER: u16 = 0;

/// The most characters of an answer that are repeated to people.
const SHOWN_MAX: usize = 80;
const END_OF_HEAD: &[u8] = b"\r\n\r\n";
const SOCKS_VERSION: u8 = 5;
const SOCKS_LOGIN_VERSION: u8 = 1;
const NO_LOGIN: u8 = 0;
const LOGIN: u8 = 2;
const NO_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// Where the proxy shall connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// A name, or an address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Why there is no way through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status, the SOCKS 5 reply code, [`CREDENTIALS_WANTED`] or [`NO_ANSWER`].
    pub code: u16,
    /// What the proxy said, for people.
    pub words: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Head,
    Method,
    Login,
    Reply,
    Open,
}

/// One handshake. Drain order: `poll_send` to `None`, `is_open`, read, `handle`.
///
/// It cannot be shown: it holds secrets.
pub struct Handshake {
    target: Target,
    login: Option<(Vec<u8>, Vec<u8>)>,
    stage: Stage,
    outbox: Vec<u8>,
    inbox: Vec<u8>,
}

impl Handshake {
    /// Asks an HTTP proxy for a tunnel. `authorization`, the value of `Proxy-Authorization`, is sent at once: it saves a
    /// round trip, and some proxies close instead of asking.
    #[must_use]
    pub fn http(target: Target, authorization: Option<&str>) -> Self {
        let authority = authority(&target.host, target.port);
        let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
        if let Some(authorization) = authorization {
            request += &format!("Proxy-Authorization: {authorization}\r\n");
        }
        request += "\r\n";
        Self {
            target,
            login: None,
            stage: Stage::Head,
            outbox: request.into_bytes(),
            inbox: Vec::new(),
        }
    }

    /// Asks a SOCKS 5 proxy; user name and password, of which it takes 255 bytes each, are offered beside going without.
    #[must_use]
    pub fn socks5(target: Target, login: Option<(Vec<u8>, Vec<u8>)>) -> Self {
        let methods = if login.is_some() {
            vec![SOCKS_VERSION, 2, NO_LOGIN, LOGIN]
        } else {
            vec![SOCKS_VERSION, 1, NO_LOGIN]
        };
        Self {
            target,
            login,
            stage: Stage::Method,
            outbox: methods,
            inbox: Vec::new(),
        }
    }

    /// Bytes for the proxy.
    pub fn poll_send(&mut self) -> Option<Vec<u8>> {
        (!self.outbox.is_empty()).then(|| std::mem::take(&mut self.outbox))
    }

    /// Whether the way through is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// Bytes from the proxy, cut anyhow.
    ///
    /// # Errors
    /// When the proxy refuses or does not speak its protocol; the connection is then of no use.
    pub fn handle(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        // One more byte than is ever held shows that there is too much.
        let room = (HEAD_BYTES_MAX + 1).saturating_sub(self.inbox.len());
        self.inbox
            .extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        loop {
            let before = self.stage;
            match before {
                Stage::Head => self.on_head()?,
                Stage::Method => self.on_method()?,
                Stage::Login => self.on_login()?,
                Stage::Reply => self.on_reply()?,
                Stage::Open => {}
            }
            if self.stage == before {
                break;
            }
        }
        if self.is_open() && (!self.inbox.is_empty() || bytes.len() > room) {
            return Err(self.garbage("it speaks first"));
        }
        Ok(())
    }

    fn on_head(&mut self) -> Result<(), Refusal> {
        let end = self
            .inbox
            .windows(END_OF_HEAD.len())
            .position(|window| window == END_OF_HEAD);
        let Some(end) = end else {
            if self.inbox.len() > HEAD_BYTES_MAX {
                return Err(self.garbage("an answer without end"));
            }
            if !may_be_http(&self.inbox) {
                return Err(self.garbage("no HTTP"));
            }
            return Ok(());
        };
        let head: Vec<u8> = self.inbox.drain(..end + END_OF_HEAD.len()).collect();
        let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
        match status(line) {
            Some(200..=299) => {
                self.stage = Stage::Open;
                Ok(())
            }
            Some(code) => Err(Refusal {
                code,
                words: shown(line),
            }),
            None => {
                self.inbox = head;
                Err(self.garbage("no HTTP"))
            }
        }
    }

    fn on_method(&mut self) -> Result<(), Refusal> {
        let &[version, method, ..] = self.inbox.as_slice() else {
            return self.wrong_version(SOCKS_VERSION);
        };
        if version != SOCKS_VERSION {
            return Err(self.garbage("no SOCKS 5"));
        }
        self.inbox.drain(..2);
        match (method, &self.login) {
            (NO_LOGIN, _) => self.ask(),
            (LOGIN, Some((user, password))) => {
                self.outbox.push(SOCKS_LOGIN_VERSION);
                for word in [user, password] {
                    let word = word.get(..usize::from(u8::MAX)).unwrap_or(word);
                    self.outbox
                        .push(u8::try_from(word.len()).unwrap_or(u8::MAX));
                    self.outbox.extend_from_slice(word);
                }
                self.stage = Stage::Login;
            }
            (NO_METHOD, login) => {
                let words = match login {
                    Some(_) => "it takes no user name and password",
                    None => "it wants a login, and none is configured",
                };
                return Err(Refusal {
                    code: CREDENTIALS_WANTED,
                    words: words.to_owned(),
                });
            }
            (_, _) => return Err(self.garbage("it chooses a login that was not offered")),
        }
        Ok(())
    }

    fn on_login(&mut self) -> Result<(), Refusal> {
        // Some proxies answer with SOCKS' own version here; the status is what counts.
        let &[_version, status, ..] = self.inbox.as_slice() else {
            return Ok(());
        };
        self.inbox.drain(..2);
        if status != 0 {
            return Err(Refusal {
                code: CREDENTIALS_WANTED,
                words: format!("it refuses user name or password, status {status}"),
            });
        }
        self.ask();
        Ok(())
    }

    fn ask(&mut self) {
        let request = &mut self.outbox;
        request.extend_from_slice(&[SOCKS_VERSION, CONNECT, 0]);
        match IpAddr::from_str(&self.target.host) {
            Ok(IpAddr::V4(address)) => {
                request.push(IPV4);
                request.extend_from_slice(&address.octets());
            }
            Ok(IpAddr::V6(address)) => {
                request.push(IPV6);
                request.extend_from_slice(&address.octets());
            }
            Err(_name) => {
                let name = self.target.host.as_bytes();
                let name = name.get(..usize::from(u8::MAX)).unwrap_or(name);
                request.push(NAME);
                request.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
                request.extend_from_slice(name);
            }
        }
        request.extend_from_slice(&self.target.port.to_be_bytes());
        self.stage = Stage::Reply;
    }

    fn on_reply(&mut self) -> Result<(), Refusal> {
        let &[version, code, ..] = self.inbox.as_slice() else {
            return self.wrong_version(SOCKS_VERSION);
        };
        if version != SOCKS_VERSION {
            return Err(self.garbage("no SOCKS 5"));
        }
        // A refusal need not be whole.
        if code != 0 {
            return Err(Refusal {
                code: code.into(),
                words: format!("SOCKS 5 reply {code}: {}", reply_words(code)),
            });
        }
        let bound = match (self.inbox.get(3), self.inbox.get(4)) {
            (Some(&IPV4), _) => 4,
            (Some(&IPV6), _) => 16,
            (Some(&NAME), Some(&length)) => 1 + usize::from(length),
            (None, _) | (Some(&NAME), None) => return Ok(()),
            (Some(_), _) => return Err(self.garbage("an address of no kind we know")),
        };
        let length = 4 + bound + 2;
        if self.inbox.len() >= length {
            self.inbox.drain(..length);
            self.stage = Stage::Open;
        }
        Ok(())
    }

    /// Fewer bytes than an answer has may already show that it is none.
    fn wrong_version(&self, version: u8) -> Result<(), Refusal> {
        match self.inbox.first() {
            Some(&first) if first != version => Err(self.garbage("no SOCKS 5")),
            Some(_) | None => Ok(()),
        }
    }

    fn garbage(&self, why: &str) -> Refusal {
        Refusal {
            code: NO_ANSWER,
            words: format!("{why}: \"{}\"", shown(&self.inbox)),
        }
    }
}

/// `host:port`, with brackets where an IPv6 address needs them.
#[must_use]
pub fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Whether these may be the first bytes of an HTTP answer.
fn may_be_http(bytes: &[u8]) -> bool {
    const BEGINNING: &[u8] = b"HTTP/1.";
    let length = bytes.len().min(BEGINNING.len());
    bytes.get(..length) == BEGINNING.get(..length)
}

/// The code of a status line (RFC 9112 section 4).
fn status(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let [b'0'..=b'9', b' ', digits @ ..] = rest else {
        return None;
    };
    let (digits, after) = digits.split_at_checked(3)?;
    if !digits.iter().all(u8::is_ascii_digit) || after.first().is_some_and(|&byte| byte != b' ') {
        return None;
    }
    let code = digits
        .iter()
        .fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    (100..=599).contains(&code).then_some(code)
}

const fn reply_words(code: u8) -> &'static str {
    match code {
        1 => "general failure",
        2 => "not allowed by its rules",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "time to live expired",
        7 => "command not supported",
        8 => "address type not supported",
        _ => "no meaning assigned",
    }
}

fn shown(bytes: &[u8]) -> String {
    bytes
        .get(..SHOWN_MAX)
        .unwrap_or(bytes)
        .escape_ascii()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(host: &str) -> Target {
        Target {
            host: host.to_owned(),
            port: 8883,
        }
    }

    fn login() -> Option<(Vec<u8>, Vec<u8>)> {
        Some((b"line-7".to_vec(), b"secret".to_vec()))
    }

    fn text(bytes: Option<Vec<u8>>) -> String {
        String::from_utf8(bytes.expect("something to send")).expect("text")
    }

    /// The code of the refusal, or whether the way is open.
    fn answered(mut handshake: Handshake, answers: &[&[u8]]) -> Result<bool, u16> {
        for answer in answers {
            while handshake.poll_send().is_some() {}
            handshake.handle(answer).map_err(|refusal| refusal.code)?;
        }
        Ok(handshake.is_open())
    }

    fn http() -> Handshake {
        Handshake::http(target("broker.example"), None)
    }

    fn socks(with_login: bool) -> Handshake {
        Handshake::socks5(target("broker.example"), login().filter(|_| with_login))
    }

    #[test]
    fn http_asks_by_name_and_shows_who_it_is() {
        assert_eq!(
            text(Handshake::http(target("broker.example"), None).poll_send()),
            "CONNECT broker.example:8883 HTTP/1.1\r\nHost: broker.example:8883\r\n\r\n"
        );
        let mut known = Handshake::http(target("2001:db8::1"), Some("Basic bGluZTc6eA=="));
        assert_eq!(
            text(known.poll_send()),
            "CONNECT [2001:db8::1]:8883 HTTP/1.1\r\nHost: [2001:db8::1]:8883\r\n\
             Proxy-Authorization: Basic bGluZTc6eA==\r\n\r\n"
        );
    }

    #[test]
    fn http_opens_with_any_success_however_it_is_cut() {
        let answer = b"HTTP/1.1 200 Connection established\r\nVia: proxy\r\n\r\n";
        assert_eq!(answered(http(), &[answer]), Ok(true));
        let single: Vec<&[u8]> = answer.chunks(1).collect();
        assert_eq!(answered(http(), &single), Ok(true));
        assert_eq!(answered(http(), &[b"HTTP/1.0 204\r\n\r\n"]), Ok(true));
        assert_eq!(answered(http(), &[b"HTTP/1.1 200 OK\r\n"]), Ok(false));
    }

    #[test]
    fn http_refuses_by_its_own_status() {
        for code in [301, 403, 407, 502] {
            let answer = format!("HTTP/1.1 {code} No\r\nX: y\r\n\r\n");
            assert_eq!(answered(http(), &[answer.as_bytes()]), Err(code));
        }
    }

    #[test]
    fn http_that_is_none_is_told_by_its_first_bytes() {
        let endless = vec![b'x'; HEAD_BYTES_MAX];
        let cases: [&[&[u8]]; 7] = [
            &[b"SSH-2.0-x"],
            &[b"HTTP/1.0 40\x17 No\r\n\r\n"],
            &[b"HTTP/1.1 2oo OK\r\n\r\n"],
            &[b"HTTP/1.1 20000\r\n\r\n"],
            &[b"HTTP/1.1 999 ?\r\n\r\n"],
            &[b"HTTP/1.1 200 OK\r\n\r\n\x20\x02"],
            &[b"HTTP/1.1 200 ", &endless],
        ];
        for answers in cases {
            assert_eq!(answered(http(), answers), Err(NO_ANSWER), "{answers:?}");
        }
    }

    #[test]
    fn socks_lets_the_proxy_resolve_the_name() {
        let mut handshake = socks(false);
        assert_eq!(handshake.poll_send(), Some(vec![5, 1, 0]));
        handshake.handle(&[5]).expect("half an answer");
        assert_eq!(handshake.poll_send(), None);
        handshake.handle(&[0]).expect("the other half");
        let mut request = vec![5, 1, 0, 3, 14];
        request.extend_from_slice(b"broker.example");
        request.extend_from_slice(&[0x22, 0xb3]);
        assert_eq!(handshake.poll_send(), Some(request));
        handshake.handle(&[5, 0, 0, 3, 1]).expect("most of it");
        assert!(!handshake.is_open());
        handshake.handle(b"x\0\0").expect("the rest");
        assert!(handshake.is_open());
    }

    #[test]
    fn socks_takes_addresses_as_such() {
        let cases = [
            ("192.0.2.7", vec![5, 1, 0, 1, 192, 0, 2, 7, 0x22, 0xb3]),
            (
                "::1",
                vec![
                    5, 1, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x22, 0xb3,
                ],
            ),
        ];
        for (host, expected) in cases {
            let mut handshake = Handshake::socks5(target(host), None);
            handshake.poll_send();
            handshake.handle(&[5, 0]).expect("no login");
            assert_eq!(handshake.poll_send(), Some(expected));
        }
    }

    #[test]
    fn socks_logs_in_where_the_proxy_wants_it() {
        let mut handshake = socks(true);
        assert_eq!(handshake.poll_send(), Some(vec![5, 2, 0, 2]));
        handshake.handle(&[5, 2]).expect("a login");
        assert_eq!(
            handshake.poll_send(),
            Some(b"\x01\x06line-7\x06secret".to_vec())
        );
        handshake.handle(&[1, 0]).expect("welcome");
        assert!(handshake.poll_send().is_some_and(|request| request[1] == 1));
    }

    #[test]
    fn socks_refusals_keep_their_codes() {
        assert_eq!(answered(socks(true), &[&[5, 2], &[1, 1]]), Err(407));
        assert_eq!(answered(socks(true), &[&[5, 0xff]]), Err(407));
        assert_eq!(answered(socks(false), &[&[5, 0xff]]), Err(407));
        for code in [1, 2, 5, 9] {
            assert_eq!(
                answered(socks(false), &[&[5, 0], &[5, code]]),
                Err(code.into())
            );
        }
    }

    #[test]
    fn socks_that_is_none_is_told() {
        let cases: [&[&[u8]]; 5] = [
            &[b"H"],
            &[&[4, 0]],
            &[&[5, 2]],
            &[&[5, 0], &[4, 0]],
            &[&[5, 0], &[5, 0, 0, 9, 0, 0, 0, 0, 0, 0]],
        ];
        for answers in cases {
            assert_eq!(
                answered(socks(false), answers),
                Err(NO_ANSWER),
                "{answers:?}"
            );
        }
    }

    #[test]
    fn bytes_behind_the_answer_are_refused() {
        let granted = [5, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x20];
        assert_eq!(answered(socks(false), &[&[5, 0], &granted]), Err(NO_ANSWER));
    }
}
