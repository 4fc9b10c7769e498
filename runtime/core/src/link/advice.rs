//! What a person can do about a cause. The host does its part by itself; where nothing is left to do, it says so.

use super::cause::{Cause, Disconnect, Inference, TlsReject};
use super::proxy::{CREDENTIALS_WANTED, NO_ANSWER};

impl Disconnect {
    /// What a person can do: as the cause says, unless the host has found something better.
    #[must_use]
    pub const fn advice(&self) -> &'static str {
        match self.smaller_publishes {
            Some(_) => {
                "set link.packet_bytes_max to what the broker takes, or raise the broker's limit and let it announce its Maximum \
                 Packet Size; until the next reload the gateway sends it smaller publishes"
            }
            None => self.cause.advice(),
        }
    }
}

impl Cause {
    /// One sentence, an imperative where somebody can act. Keys name the configuration file's.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "a table: one row per cause")]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::NameResolution => {
                "check the host in link.url, or the one in link.proxy if it is set, and this machine's name servers"
            }
            Self::ConnectRefused => {
                "check host and port in link.url, or link.proxy if it is set, and that the broker runs and listens there"
            }
            Self::Unreachable => {
                "check this machine's interfaces, addresses and routes, and link.bind_address and link.bind_device if they are set"
            }
            Self::ConnectTimeout => {
                "check link.url, or link.proxy if it is set, and firewalls on the way: packets vanish without an answer"
            }
            Self::Tls(reject) => tls(reject),
            Self::ProxyRefused(CREDENTIALS_WANTED) => {
                "give the proxy's credentials (link.proxy_username and link.proxy_password)"
            }
            Self::ProxyRefused(NO_ANSWER) => {
                "check that link.proxy names a proxy that runs, and the right one of http:// and socks5://"
            }
            Self::ProxyRefused(_) => {
                "ask whoever runs the proxy why it does not let us through; the record has its answer"
            }
            Self::WebSocketRefused(status) => websocket(status),
            Self::ConnackTimeout => {
                "check that link.url names an MQTT port; else the broker is overloaded or hangs"
            }
            Self::ClosedBeforeConnack => {
                "read the broker's log: it refused this client without saying why; a TLS port asked without TLS does this too"
            }
            Self::VersionRefused => {
                "nothing, if another version is allowed; else set link.mqtt_version to one the broker speaks"
            }
            Self::ClientIdRefused => "give the gateway an id the broker accepts (link.client_id)",
            Self::ServerUnavailable | Self::ServerBusy => "nothing here; the broker must recover",
            Self::BadCredentials => "check link.username and link.password against the broker",
            Self::NotAuthorized => {
                "allow this client at the broker, or check its credentials or token"
            }
            Self::Banned => "lift the ban at the broker",
            Self::BadAuthenticationMethod => "choose a way of authentication the broker offers",
            Self::QuotaExceeded | Self::MessageRateTooHigh => {
                "send less: slow connectors down or batch more; or raise the broker's limit"
            }
            Self::ConnectionRateExceeded => "nothing; the gateway keeps its distance",
            Self::UseAnotherServer | Self::ServerMoved => {
                "check the server reference in the record and change link.url to it"
            }
            Self::OptionUnsupported(_) => {
                "allow at the broker what the reason code names, or change [link]"
            }
            Self::PacketTooLarge => {
                "lower link.packet_bytes_max to what the broker takes, or raise the broker's limit"
            }
            Self::ClosedByServer(inference) => closed(inference),
            Self::Reset => {
                "look for a device on the way that ends idle connections (NAT, firewall); a shorter link.keep_alive_s may help"
            }
            Self::TakenOver => {
                "find the other client with this id and give one of the two another (link.client_id)"
            }
            Self::ServerShuttingDown | Self::MaximumConnectTime => "nothing; this was planned",
            Self::KeepAliveTimeout => {
                "look at this machine's load: the gateway did not get to send in time"
            }
            Self::AdministrativeAction => "ask the broker's administrator",
            Self::ReceiveMaximumExceeded
            | Self::TopicAliasInvalid
            | Self::MalformedPacket
            | Self::ProtocolError => {
                "report this with the record and the broker's log: one of the two is wrong about the protocol"
            }
            Self::TopicInvalid => "allow the gateway's topics at the broker",
            Self::ServerReason(_) => "look the reason code up in the broker's documentation",
            Self::PeerGarbage => {
                "check that link.url names an MQTT port, with TLS or without as the broker wants"
            }
            Self::PingrespTimeout => {
                "look whether the broker hangs or gets no processor; a proxy or firewall on the way that acknowledges in its place looks the same"
            }
            Self::BlackHole => {
                "look at the network between here and the broker: what is sent gets no answer"
            }
            Self::WriteStalled | Self::AckTimeout => {
                "look at the broker: it is connected but does not do its work"
            }
            Self::CanaryLost => {
                "look at the broker, and at the bridge or the rule between link.canary's topic and its subscribers: messages are acknowledged and go no further"
            }
            Self::Local(_) => "nothing; it was asked for",
            Self::HostRestarted => {
                "find out what killed the gateway: power, the kernel's memory killer, or a person"
            }
            Self::HostStarved => {
                "look at this machine's load and memory, and at whatever stops processes on it; if it is a virtual machine, at whether its host paused it"
            }
            Self::HostSuspended => {
                "keep this machine from sleeping, or accept that its link does not live through it"
            }
            Self::LocalResource => {
                "raise this machine's limits on open files or memory, or allow the gateway to open sockets"
            }
        }
    }
}

const fn tls(reject: TlsReject) -> &'static str {
    match reject {
        TlsReject::UnknownIssuer => {
            "name the authority that signed the broker's certificate in link.tls.ca_file"
        }
        TlsReject::NameMismatch => {
            "use the certificate's name in link.url, or set link.tls.server_name"
        }
        TlsReject::Expired => {
            "check this machine's clock; if it is right, renew the broker's certificate"
        }
        TlsReject::NotYetValid => "check this machine's clock",
        TlsReject::ClientCertificate => {
            "give a certificate the broker accepts (link.tls.client_cert_file and client_key_file)"
        }
        TlsReject::NotTls => "use mqtt:// instead of mqtts://, or the broker's TLS port",
        TlsReject::BadCertificate => {
            "let the detail in the record be read by whoever made the certificate"
        }
        TlsReject::Alert(_) | TlsReject::Handshake => {
            "make sure that link.url names the broker's TLS port; compare TLS versions, ciphers and certificates on both sides"
        }
    }
}

const fn websocket(status: u16) -> &'static str {
    match status {
        NO_ANSWER => {
            "check that link.url names the broker's WebSocket port, with wss:// if it wants TLS"
        }
        401 | 403 => "allow this client at the web server or proxy before the broker",
        429 => "nothing; the gateway keeps its distance",
        500..=599 => "nothing here; the web server before the broker must recover",
        _ => "check the path in link.url: most brokers serve MQTT at /mqtt",
    }
}

const fn closed(inference: Inference) -> &'static str {
    match inference {
        Inference::Nothing => "read the broker's log: it gave no reason",
        Inference::KeepAlive => "look at this machine's load, or raise link.keep_alive_s",
        Inference::TakeoverOrAccess => {
            "look for another client with this id, and for an access rule of the broker that ends the session"
        }
        Inference::Poison => {
            "look at the message the record names: the broker seems not to bear it"
        }
    }
}
