//! What the fake device answers: a request it knows, by its bytes, and the answer to it.
//!
//! A request is text, or bytes in hexadecimal where `..` stands for any byte. An answer in hexadecimal may repeat the
//! n-th byte of the request, counted from 0, as `[n]`: what protocols with transaction numbers need.

use serde::Deserialize;

/// One request and its answer, as in a test plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// The request, as text.
    pub request: Option<String>,
    /// The request, in hexadecimal, with `..` for any byte.
    pub request_hex: Option<String>,
    /// The answer, as text.
    pub response: Option<String>,
    /// The answer, in hexadecimal, with `[n]` for the n-th byte of the request.
    pub response_hex: Option<String>,
}

/// An [`Answer`] that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// None = any byte.
    request: Vec<Option<u8>>,
    response: Vec<Piece>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Byte(u8),
    OfRequest(usize),
}

/// Reads all answers of a plan; says which is wrong, and how.
pub(super) fn rules(answers: &[Answer]) -> Result<Vec<Rule>, String> {
    let rule = |(at, answer)| Rule::parse(answer).map_err(|why| format!("answer[{at}]: {why}"));
    answers.iter().enumerate().map(rule).collect()
}

/// How bytes that came compare with what is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// A whole request of so many bytes, and its answer.
    Whole(usize, Vec<u8>),
    /// The beginning of one.
    Beginning,
    /// None that is known.
    Unknown,
}

impl Rule {
    /// Reads an answer of a plan; says what is wrong with it.
    pub(super) fn parse(answer: &Answer) -> Result<Self, String> {
        let request = match (&answer.request, &answer.request_hex) {
            (Some(text), None) => text.bytes().map(Some).collect(),
            (None, Some(hex)) => hex
                .split_whitespace()
                .map(pattern)
                .collect::<Result<_, _>>()?,
            (Some(_), Some(_)) | (None, None) => {
                return Err("one of request and request_hex is needed".to_owned());
            }
        };
        let response = match (&answer.response, &answer.response_hex) {
            (Some(text), None) => text.bytes().map(Piece::Byte).collect(),
            (None, Some(hex)) => hex
                .split_whitespace()
                .map(piece)
                .collect::<Result<_, _>>()?,
            (Some(_), Some(_)) | (None, None) => {
                return Err("one of response and response_hex is needed".to_owned());
            }
        };
        let rule = Self { request, response };
        let last = rule.request.len();
        if last == 0 {
            return Err("an empty request answers nothing".to_owned());
        }
        let beyond = |piece: &&Piece| matches!(piece, Piece::OfRequest(at) if *at >= last);
        match rule.response.iter().find(beyond) {
            Some(piece) => Err(format!("{piece:?} lies behind the request's {last} bytes")),
            None => Ok(rule),
        }
    }

    fn answer(&self, bytes: &[u8]) -> Vec<u8> {
        let byte = |piece: &Piece| match piece {
            Piece::Byte(byte) => *byte,
            Piece::OfRequest(at) => bytes.get(*at).copied().unwrap_or_default(),
        };
        self.response.iter().map(byte).collect()
    }
}

fn byte(token: &str) -> Result<u8, String> {
    match u8::from_str_radix(token, 16) {
        Ok(byte) if token.len() == 2 => Ok(byte),
        Ok(_) | Err(_) => Err(format!("{token:?} is not two hexadecimal digits")),
    }
}

fn pattern(token: &str) -> Result<Option<u8>, String> {
    if token == ".." {
        Ok(None)
    } else {
        byte(token).map(Some)
    }
}

fn piece(token: &str) -> Result<Piece, String> {
    let inner = token
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    match inner.map(str::parse) {
        Some(Ok(at)) => Ok(Piece::OfRequest(at)),
        Some(Err(_)) => Err(format!("{token:?} names no byte of the request")),
        None => byte(token).map(Piece::Byte),
    }
}

/// Looks for `bytes` in what is known. The first rule that fits whole counts.
pub(super) fn look_up(rules: &[Rule], bytes: &[u8]) -> Known {
    let fits = |rule: &&Rule| {
        let pairs = rule.request.iter().zip(bytes);
        pairs
            .into_iter()
            .all(|(wanted, byte)| wanted.is_none_or(|wanted| wanted == *byte))
    };
    let mut fitting = rules.iter().filter(fits);
    let whole = fitting
        .clone()
        .find(|rule| rule.request.len() <= bytes.len());
    match whole {
        Some(rule) => Known::Whole(rule.request.len(), rule.answer(bytes)),
        None if fitting.next().is_some() => Known::Beginning,
        None => Known::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(request_hex: &str, response_hex: &str) -> Result<Rule, String> {
        Rule::parse(&Answer {
            request_hex: Some(request_hex.to_owned()),
            response_hex: Some(response_hex.to_owned()),
            ..Answer::default()
        })
    }

    #[test]
    fn an_answer_repeats_bytes_of_its_request() {
        let rules = [rule(".. .. 00 03", "[0] [1] ff").unwrap()];
        assert_eq!(look_up(&rules, &[7, 8, 0]), Known::Beginning);
        assert_eq!(
            look_up(&rules, &[7, 8, 0, 3, 9]),
            Known::Whole(4, vec![7, 8, 255])
        );
        assert_eq!(look_up(&rules, &[7, 8, 1]), Known::Unknown);
    }

    #[test]
    fn a_rule_that_cannot_work_says_why() {
        assert!(rule("", "00").unwrap_err().contains("empty request"));
        assert!(rule("0", "00").unwrap_err().contains("\"0\""));
        assert!(rule("00", "[1]").unwrap_err().contains("behind"));
        assert!(rule("00", "[x]").unwrap_err().contains("[x]"));
        assert!(Rule::parse(&Answer::default()).is_err());
    }
}
