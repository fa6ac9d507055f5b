//! The live view of a simulation: one meter line for every service, the whole run below them.

use clap::builder::styling::{AnsiColor, Style};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use lifeboat::event::Event;
use lifeboat::meter::{Percent, Usage};
use lifeboat::name::Name;
use lifeboat::simulate::{Observer, ServiceView};
use std::time::{Duration, Instant};

/// How often the meters are drawn: more would only cost time.
const DRAW_INTERVAL: Duration = Duration::from_millis(50);

/// The cells of a meter.
const METER_CELLS: u32 = 20;

/// A meter this many points below its threshold or nearer is marked.
const NEAR_POINTS: u16 = 10;

const GREEN: Style = AnsiColor::Green.on_default();
const YELLOW: Style = AnsiColor::Yellow.on_default();
const RED: Style = AnsiColor::Red.on_default();
const CYAN: Style = AnsiColor::Cyan.on_default();

pub(super) struct Live {
    bars: MultiProgress,
    meters: Vec<ProgressBar>,
    /// The whole run, below them.
    whole: ProgressBar,
    /// When the meters were drawn. None if that is due: a failover is shown at once.
    drawn: Option<Instant>,
    /// Services whose line does not show their last state.
    stale: Vec<bool>,
    has_colours: bool,
    name_width: usize,
}

impl Live {
    pub(super) fn new() -> Self {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let whole = bars.add(ProgressBar::new_spinner().with_style(text_style()));
        Self {
            bars,
            meters: Vec::new(),
            whole,
            drawn: None,
            stale: Vec::new(),
            // See https://no-color.org.
            has_colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            name_width: 0,
        }
    }

    /// Takes the meters off the screen; the event lines stay.
    pub(super) fn close(&mut self) {
        let _ = self.bars.clear();
    }

    fn draw(&mut self, services: &[ServiceView]) {
        for (service, view) in services.iter().enumerate() {
            if std::mem::take(&mut self.stale[service]) {
                self.meters[service].set_message(self.line(view));
            }
        }
        self.drawn = Some(Instant::now());
    }

    fn line(&self, ServiceView { status, thresholds }: &ServiceView) -> String {
        let vm = status.vm.to_string();
        let condition = match (&status.stopped, &status.degraded, &status.unmovable) {
            (Some(_), _, _) => "  stopped",
            (_, Some(_), _) => "  degraded",
            (_, _, Some(_)) => "  unmovable",
            _ => "",
        };
        format!(
            "{vm:<width$}  {:<6} {:<7} cpu {}  memory {}{condition}",
            status.machine,
            status.size,
            self.meter(status.meter.cpu, thresholds.cpu),
            self.meter(status.meter.memory, thresholds.memory),
            width = self.name_width,
        )
    }

    /// `━━━━━━━━╌╌  80.0%`, with a mark when it is near the threshold.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to METER_CELLS")]
    fn meter(&self, usage: Usage, threshold: Percent) -> String {
        let percent = usage.utilisation_percent();
        let filled = (percent.min(100.0) / 100.0 * f64::from(METER_CELLS)).round() as usize;
        let empty = METER_CELLS as usize - filled;
        let is_near = threshold.less_points(NEAR_POINTS).reached(usage.used, usage.limit);
        let (style, mark) = match (threshold.reached(usage.used, usage.limit), is_near) {
            (true, _) => (RED, '!'),
            (_, true) => (YELLOW, '!'),
            _ => (GREEN, ' '),
        };
        self.styled(style, &format!("{}{} {percent:>5.1}%{mark}", "━".repeat(filled), "╌".repeat(empty)))
    }

    fn styled(&self, style: Style, text: &str) -> String {
        if self.has_colours { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

impl Observer for Live {
    fn starting(&mut self, service: &Name) {
        self.whole.set_message(format!("compiling the workload of {service}"));
        self.whole.tick();
    }

    fn started(&mut self, services: &[ServiceView], total: u64) {
        // Three digits of VM numbers, and the slash.
        self.name_width = services.iter().map(|view| view.status.vm.service.len()).max().unwrap_or(0) + 4;
        self.stale = vec![true; services.len()];
        let meter = || self.bars.insert_before(&self.whole, ProgressBar::new_spinner().with_style(text_style()));
        self.meters = services.iter().map(|_| meter()).collect();
        let style = ProgressStyle::with_template("{bar:40} {human_pos} of {human_len} requests");
        self.whole.set_style(style.expect("a literal template").progress_chars("━━╌"));
        self.whole.set_length(total);
        self.draw(services);
    }

    fn event(&mut self, event: &Event) {
        let style = match event {
            Event::Failover(_) => CYAN,
            Event::SlaFailure(_) => YELLOW,
            Event::Degraded { .. } | Event::Unmovable { .. } | Event::Stopped { .. } => RED,
            _ => Style::new(),
        };
        if matches!(event, Event::Failover(_)) {
            self.drawn = None;
        }
        let _ = self.bars.println(self.styled(style, &event.to_string()));
    }

    fn answered(&mut self, services: &[ServiceView], service: usize, done: u64) {
        self.stale[service] = true;
        if self.drawn.is_some_and(|drawn| drawn.elapsed() < DRAW_INTERVAL) {
            return;
        }
        self.draw(services);
        // Repetitions come on top of what was expected.
        self.whole.set_length(self.whole.length().unwrap_or(0).max(done));
        self.whole.set_position(done);
    }

    fn reconciling(&mut self, service: &Name) {
        self.whole.set_style(text_style());
        self.whole.set_message(format!("reconciling {service}: every acknowledged transaction once more, in one VM"));
        self.whole.tick();
    }
}

fn text_style() -> ProgressStyle {
    ProgressStyle::with_template("{wide_msg}").expect("a literal template")
}
