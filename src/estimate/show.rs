//! An estimate in words.

use std::fmt;

use bytesize::ByteSize;

use super::{Cost, Estimate, Length, Requests, Time};

impl Estimate {
    /// The estimate in a line.
    pub fn brief(&self) -> String {
        let length = self.length.map_or("an unknown length of video".to_owned(), |length| length.to_string());
        match &self.time {
            Some(time) => format!("{length}, {} of one task", hours(time.task_hours)),
            None => length,
        }
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { videos, bytes, length, speed, time, requests, cost } = self;
        let size = ByteSize(*bytes).display().iec();
        match length {
            Some(of) if of.headers < of.sample => {
                writeln!(f, "length     {of}; {} of {} headers say nothing", of.sample - of.headers, of.sample)?;
            }
            Some(of) => writeln!(f, "length     {of}, by the headers of {} of {videos} videos", of.headers)?,
            None => writeln!(f, "length     unknown: no header of the sample declares it")?,
        }
        match (time, speed) {
            (Some(Time { task_hours, decode_hours, inference_hours, tasks, hours: elapsed }), Some(speed)) => {
                let [all, decode, inference, elapsed] =
                    [*task_hours, *decode_hours, *inference_hours, *elapsed].map(hours);
                writeln!(f, "time       {all} of one task, at the speed of {}", speed.source)?;
                writeln!(f, "           {decode} of decoders, {inference} of models")?;
                if *tasks > 1 {
                    writeln!(f, "           {elapsed} with {tasks} tasks")?;
                }
            }
            (_, None) => {
                writeln!(
                    f,
                    "time       unknown: there is no run of this job; measure it with `vidindex bench JOB --json >bench.json`"
                )?;
                writeln!(f, "           and give --bench bench.json")?;
            }
            (None, Some(_)) => writeln!(f, "time       unknown")?,
        }
        let Requests { reads, writes, lists } = requests;
        write!(f, "requests   about {reads} reads of at most {size}, {writes} writes, {lists} lists")?;
        if let Some(Cost { currency, tasks, requests, bytes }) = cost {
            let total = tasks.unwrap_or(0.0) + requests + bytes;
            let parts = match tasks {
                Some(tasks) => format!("tasks {tasks:.2}, requests {requests:.2}, bytes {bytes:.2}"),
                None => format!("requests {requests:.2}, bytes {bytes:.2}, without the tasks"),
            };
            write!(f, "\ncost       {total:.2} {currency}: {parts}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of video", hours(self.hours))?;
        if self.error > 0.0 { write!(f, " (± {:.0} %)", 100.0 * self.error) } else { Ok(()) }
    }
}

/// A duration with two digits: `1.2 h`, `34 min`, `5.6 s`.
fn hours(hours: f64) -> String {
    let (value, unit) = match hours * 3600.0 {
        seconds if seconds < 60.0 => (seconds, "s"),
        seconds if seconds < 3600.0 => (seconds / 60.0, "min"),
        _ => (hours, "h"),
    };
    if value < 10.0 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::super::Speed;
    use super::*;

    #[test]
    fn an_estimate_says_what_it_goes_by_and_what_is_missing() {
        let length = Length { hours: 123.4, error: 0.056, headers: 32, sample: 32 };
        let requests = Requests { reads: 9000, writes: 80, lists: 7 };
        let bare =
            Estimate { videos: 1000, bytes: 3 << 30, length: None, speed: None, time: None, requests, cost: None };
        assert_eq!(
            bare.to_string(),
            "length     unknown: no header of the sample declares it\n\
             time       unknown: there is no run of this job; measure it with `vidindex bench JOB --json >bench.json`\n           \
             and give --bench bench.json\n\
             requests   about 9000 reads of at most 3.0 GiB, 80 writes, 7 lists"
        );
        let speed = Speed {
            source: "run R on cuda:0".to_owned(),
            task_seconds: 0.01,
            decode_seconds: 0.02,
            inference_seconds: 0.005,
        };
        let time = Time { task_hours: 1.234, decode_hours: 2.468, inference_hours: 0.617, tasks: 4, hours: 0.3085 };
        let cost = Cost { currency: "USD".to_owned(), tasks: Some(2.5), requests: 0.004, bytes: 0.3 };
        let full = Estimate { length: Some(length), speed: Some(speed), time: Some(time), cost: Some(cost), ..bare };
        assert_eq!(
            full.to_string(),
            "length     123 h of video (± 6 %), by the headers of 32 of 1000 videos\n\
             time       1.2 h of one task, at the speed of run R on cuda:0\n           \
             2.5 h of decoders, 37 min of models\n           \
             19 min with 4 tasks\n\
             requests   about 9000 reads of at most 3.0 GiB, 80 writes, 7 lists\n\
             cost       2.80 USD: tasks 2.50, requests 0.00, bytes 0.30"
        );
        assert_eq!(full.brief(), "123 h of video (± 6 %), 1.2 h of one task");
        assert_eq!(hours(5.6 / 3600.0), "5.6 s");
    }
}
