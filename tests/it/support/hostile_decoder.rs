//! The example `hostile_decoder`: a decoder process that is under the control of a hostile video. It is started like the real one
//! and speaks its protocol badly: impossible values, random bytes, messages out of order, floods, silence. What it does follows from
//! the size of the video in the request, so that a dialogue can be repeated.

#[path = "dice.rs"]
mod dice;

use std::fs::File;
use std::io::{self, IoSliceMut, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};
use serde_json::{Value, json};

use dice::Dice;

/// A descriptor that its parent has mapped.
const SOCKET_FD: i32 = 3;

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn is(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn bytes(&mut self, length: u64) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }

    /// An integer, mostly at an edge.
    fn integer(&mut self) -> Value {
        match self.below(12) {
            0 => json!(0),
            1 => json!(-1),
            2 => json!(1),
            3 => json!(i64::MAX),
            4 => json!(i64::MIN),
            5 => json!(u64::MAX),
            6 => json!(u32::MAX),
            7 => json!(i32::MAX),
            8 => json!(1_u64 << 53),
            9 => json!(1e300),
            _ => json!(self.below(100)),
        }
    }

    /// A number of seconds. JSON cannot say infinity.
    fn seconds(&mut self) -> Value {
        match self.below(8) {
            0 => json!(-0.0),
            1 => json!(-1e-300),
            2 => json!(1e308),
            3 => json!(-1e308),
            4 => Value::Null,
            _ => json!(self.below(100) as f64 / 10.0),
        }
    }

    fn text(&mut self) -> Value {
        match self.below(6) {
            0 => json!(""),
            1 => json!("x".repeat(self.below(60_000) as usize)),
            2 => json!("\u{1b}]0;owned\u{7}\u{1b}[2J\r\n\u{0}"),
            3 => json!("../../../etc/passwd"),
            4 => json!("😀'\"<script>"),
            _ => json!("h264"),
        }
    }
}

struct Decoder {
    dice: Dice,
    control: UnixStream,
    bytes: UnixStream,
    frames: File,
    frame: u64,
    segment: u64,
}

impl Decoder {
    fn send(&mut self, message: &Value) -> io::Result<()> {
        self.send_raw(message.to_string().as_bytes())
    }

    fn send_raw(&mut self, body: &[u8]) -> io::Result<()> {
        self.control.write_all(&[&(body.len() as u32).to_le_bytes()[..], body].concat())
    }

    fn opened(&mut self) -> Value {
        json!({"Opened": {"container": "mov,mp4,m4a,3gp,3g2,mj2", "codec": "h264", "width": 64, "height": 48,
            "orientation": {"rotation": 0, "mirrored": false}, "frames_per_second": 25.0, "duration_seconds": 4.0}})
    }

    fn image(&mut self, slot: u64) -> Value {
        self.frame += 1;
        json!({"Image": {"slot": slot, "frame": self.frame, "time_seconds": self.frame as f64, "width": 64, "height": 48}})
    }

    /// As the request of the test wants it: a second a segment, of four frames.
    fn clip(&mut self, slot: u64) -> Value {
        let segment = self.segment;
        self.segment += 1;
        json!({"Clip": {"slot": slot, "width": 16, "height": 16, "segment": segment, "start_seconds": segment as f64,
            "end_seconds": segment as f64 + 1.0, "frames": 25, "sampled": [0, 1, 2, 3]}})
    }

    fn ended(&mut self) -> Value {
        json!({"Ended": {"totals": {"frames_decoded": 1, "frames_presented": 1, "in_full": null, "end_seconds": 1.0, "damaged": 0,
            "start_seconds": 0.0, "decode_seconds": 0.1, "fetch_seconds": 0.0, "blocked_seconds": 0.0}, "error": null}})
    }

    /// Any message that the real decoder could send, as it should be.
    fn message(&mut self) -> Value {
        let slot = self.dice.below(8);
        match self.dice.below(11) {
            0 | 1 => self.opened(),
            2..=4 => self.image(slot),
            5 | 6 => self.clip(slot % 2),
            7 => json!({"NeedsFull": {"reason": "damage"}}),
            8 => json!({"Part": {"slot": slot, "offset": 0, "bytes": 10}}),
            9 => json!({"CutEnded": {"info": {"container": "mp4", "from_seconds": 0.0, "pictures": 1}, "error": null}}),
            _ => json!({"SandboxProbed": {"escapes": [], "missing": []}}),
        }
    }

    /// Changes some values of a message.
    fn mutate(&mut self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                if self.dice.is(3) {
                    fields.insert("unknown".to_owned(), json!([{}]));
                }
                fields.values_mut().for_each(|value| self.mutate(value));
            }
            Value::Array(values) => {
                if self.dice.is(10) {
                    values.extend(std::iter::repeat_n(json!(7), self.dice.below(20_000) as usize));
                }
                values.iter_mut().for_each(|value| self.mutate(value));
            }
            Value::String(_) if self.dice.is(30) => *value = self.dice.text(),
            Value::Number(number) if self.dice.is(30) => {
                *value = if number.is_f64() { self.dice.seconds() } else { self.dice.integer() };
            }
            Value::Null if self.dice.is(30) => {
                let kinds =
                    ["corrupt", "access_denied", "not_found", "timeout", "nonsense", "DecoderCrashed", "Corrupt"];
                let kind = kinds[self.dice.below(kinds.len() as u64) as usize];
                *value = json!({"kind": kind, "message": self.dice.text()});
            }
            _ => {}
        }
    }

    /// One step of the dialogue. An error means that the parent has had enough.
    fn step(&mut self) -> io::Result<()> {
        match self.dice.below(20) {
            0..=3 => {
                let message = self.message();
                self.send(&message)
            }
            4..=7 => {
                let mut message = if self.dice.is(20) { self.ended() } else { self.message() };
                self.mutate(&mut message);
                self.send(&message)
            }
            8 => {
                let length = self.dice.below(200);
                let noise = self.dice.bytes(length);
                self.control.write_all(&noise)
            }
            9 => {
                let length = [0, 64 * 1024, 64 * 1024 + 1, u32::MAX][self.dice.below(4) as usize];
                self.control.write_all(&length.to_le_bytes())
            }
            10 => {
                let texts = [
                    "",
                    "null",
                    "{}",
                    "[]",
                    "{\"Opened\":NaN}",
                    "{\"Ended\":{\"totals\":{\"end_seconds\":1e999}}}",
                    "{\"Image\":{\"slot\":-1}}",
                    "\"Opened\"",
                    "{\"Clip\":{}}",
                    "{\"Free\":{\"kind\":\"Clip\",\"slot\":0}}",
                ];
                let text = texts[self.dice.below(texts.len() as u64) as usize];
                self.send_raw(text.as_bytes())
            }
            11 => {
                let deep = "[".repeat(self.dice.below(60_000) as usize);
                self.send_raw(deep.as_bytes())
            }
            12 => {
                let noise = self.dice.bytes(300);
                self.send_raw(&noise)
            }
            // Reads of the video, some without taking the answers.
            13 | 14 => {
                for _ in 0..self.dice.below(20) {
                    let offset = if self.dice.is(50) { self.dice.below(1 << 20) } else { self.dice.next() };
                    let length =
                        if self.dice.is(50) { self.dice.below(1 << 16) as u32 } else { self.dice.next() as u32 };
                    self.bytes.write_all(&[&offset.to_le_bytes()[..], &length.to_le_bytes()].concat())?;
                    if self.dice.is(70) {
                        let mut answer = [0; 4];
                        self.bytes.read_exact(&mut answer)?;
                        let length = u32::from_le_bytes(answer);
                        if length < 1 << 24 {
                            io::copy(&mut Read::by_ref(&mut self.bytes).take(length.into()), &mut io::sink())?;
                        }
                    }
                }
                Ok(())
            }
            // Writes into slots that the parent holds.
            15 => {
                for _ in 0..50 {
                    let (noise, place) = (self.dice.bytes(64), self.dice.below(1 << 16));
                    self.frames.write_all_at(&noise, place)?;
                }
                Ok(())
            }
            16 => {
                let length = self.dice.below(100_000);
                let noise = self.dice.bytes(length);
                let escape = "\u{1b}[31mmemory allocation of\n".as_bytes();
                io::stderr().write_all(if self.dice.is(50) { &noise } else { escape })
            }
            // Floods.
            17 => {
                for _ in 0..self.dice.below(300) {
                    let message = if self.dice.is(50) { self.image(0) } else { self.clip(0) };
                    self.send(&message)?;
                }
                Ok(())
            }
            18 => {
                let reason = self.dice.text();
                self.send(&json!({"NotSandboxed": {"reason": reason}}))
            }
            _ => {
                let message = self.ended();
                self.send(&message)
            }
        }
    }

    /// The last thing that it does.
    fn end(&mut self) {
        match self.dice.below(10) {
            0 => std::process::abort(),
            1 => std::process::exit(self.dice.below(256) as i32),
            // Silence, until the parent kills it.
            2 => std::thread::sleep(Duration::from_secs(600)),
            // Half a message.
            3 => {
                let _ = self.control.write_all(&[200, 0, 0, 0, b'{']);
            }
            4 => {
                let _ = self.control.shutdown(std::net::Shutdown::Both);
                std::thread::sleep(Duration::from_secs(600));
            }
            _ => {}
        }
    }
}

fn decode(mut control: UnixStream, bytes: UnixStream, frames: File) -> io::Result<()> {
    let mut length = [0; 4];
    control.read_exact(&mut length)?;
    let mut order = vec![0; u32::from_le_bytes(length) as usize];
    control.read_exact(&mut order)?;
    let order: Value = serde_json::from_slice(&order)?;
    let seed = order["Decode"]["request"]["size_bytes"].as_u64().unwrap_or(0);
    let mut decoder = Decoder { dice: Dice(seed), control, bytes, frames, frame: 0, segment: 0 };
    let result = (|| {
        if decoder.dice.is(90) {
            let opened = decoder.opened();
            decoder.send(&opened)?;
        }
        // It behaves for a while, so that its parent is in any state when it no longer does.
        for _ in 0..decoder.dice.below(20) {
            let slot = decoder.dice.below(8);
            let frame = if decoder.dice.is(70) { decoder.image(slot) } else { decoder.clip(slot % 2) };
            decoder.send(&frame)?;
        }
        for _ in 0..decoder.dice.below(12) {
            decoder.step()?;
        }
        Ok(())
    })();
    decoder.end();
    result
}

fn main() {
    // SAFETY: the parent mapped this descriptor for this process.
    let socket = unsafe { OwnedFd::from_raw_fd(SOCKET_FD) };
    loop {
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let Ok(_) = recvmsg(&socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::empty()) else {
            return;
        };
        let mut given = ancillary.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(given) => given.collect::<Vec<_>>(),
            _ => Vec::new(),
        });
        let (Some(control), Some(bytes), Some(frames), Some(log)) =
            (given.next(), given.next(), given.next(), given.next())
        else {
            return;
        };
        // SAFETY: this process has one thread. The new process is a child of this one's parent, as the parent expects.
        let pid = unsafe {
            libc::syscall(
                libc::SYS_clone,
                libc::c_long::from(libc::CLONE_PARENT | libc::SIGCHLD),
                0_usize,
                0_usize,
                0_usize,
                0_usize,
            )
        };
        if pid == 0 {
            drop(socket);
            let _ = rustix::stdio::dup2_stderr(&log);
            drop(log);
            let _ = decode(control.into(), bytes.into(), frames.into());
            return;
        }
        if send(&socket, &(pid as i32).to_ne_bytes(), SendFlags::NOSIGNAL).is_err() {
            return;
        }
    }
}
