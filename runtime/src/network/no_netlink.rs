//! Where there is no netlink nothing is heard and nobody answers.

use std::io;

use moorline_core::network::rtnetlink::{Message, Request};

pub(super) enum Ear {}

impl Ear {
    pub(super) fn open() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) async fn hear(&mut self) -> io::Result<()> {
        match *self {}
    }

    pub(super) fn empty(&self) {
        match *self {}
    }
}

pub(super) enum Questions {}

impl Questions {
    pub(super) fn open() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) async fn ask(
        &mut self,
        _request: Request,
        _take: impl FnMut(Message),
    ) -> io::Result<()> {
        match *self {}
    }
}
