package precall

import "slices"

// deviceCauses are those of the computer that the page runs on.
func deviceCauses() []cause {
	return []cause{
		{"insecure-context", func(e *evidence) []Finding {
			return when(e.failed("secure-context"), Fail, 1)
		}},
		{"browser-unsupported", func(e *evidence) []Finding {
			return when(e.failed("browser") && !e.failed("secure-context"), Fail, 1)
		}},
		{"microphone-denied", denied("microphone")},
		{"microphone-missing", device("microphone", Fail, "missing")},
		{"microphone-in-use", device("microphone", Fail, "in-use")},
		{"microphone-silent", microphoneSilent},
		{"microphone-clipping", device("microphone", Warn, "clipping")},
		{"camera-denied", denied("camera")},
		{"camera-missing", device("camera", Warn, "missing")},
		{"camera-in-use", device("camera", Fail, "in-use")},
		{"camera-black", device("camera", Fail, "black")},
		{"camera-frozen", device("camera", Fail, "frozen")},
		{"speaker-not-heard", device("speaker", Warn, "not-heard")},
		{"echo-heard", echoHeard},
		{"cpu-limited", cpuLimited},
		{"clock-skew", clockSkew},
	}
}

// device is for what getUserMedia says in a word of its own. In an insecure context, or a browser that can't, it says
// nothing about the device.
func device(id string, severity Verdict, words ...string) func(*evidence) []Finding {
	return func(e *evidence) []Finding {
		c := e.check(id)
		bad := c.Verdict == Fail || c.Verdict == Warn
		return when(bad && slices.Contains(words, c.Error) && !e.failed("secure-context") && !e.failed("browser"), severity, 0.95)
	}
}

// denied: refused, or the browser's question was left unanswered. On a computer that has no time for its browser nobody may have been asked
// yet, or the answer is still under way: then silence is no refusal.
func denied(id string) func(*evidence) []Finding {
	refused := device(id, Fail, "denied")
	return func(e *evidence) []Finding {
		if e.check(id).Error == "dismissed" && !e.starved() {
			return when(true, Fail, 0.6)
		}
		return refused(e)
	}
}

// microphoneSilent: digital silence is a muted or dead microphone, but a faint one may be a quiet room.
func microphoneSilent(e *evidence) []Finding {
	c := e.check("microphone")
	if c.Value == nil || c.Verdict != Fail {
		return nil
	}
	if *c.Value <= -90 {
		return when(true, Fail, 0.9, "level", *c.Value)
	}
	return when(true, Warn, 0.5, "level", *c.Value)
}

// echoHeard: the microphone hears the loudspeaker although the browser takes the echo out.
func echoHeard(e *evidence) []Finding {
	c := e.check("echo")
	if c.Error != "heard" || c.Value == nil {
		return nil
	}
	return when(true, Warn, 0.8, "level", *c.Value)
}

// cpuLimited: the browser's own clockwork runs late, or its encoder says that it can't keep up.
func cpuLimited(e *evidence) []Finding {
	cpu, media := e.check("cpu"), e.check("relay:media")
	late := 0.0
	if cpu.Value != nil {
		late = *cpu.Value
	}
	switch {
	case cpu.Verdict == Fail:
		return when(true, Fail, 0.95, "value", late)
	case cpu.Verdict == Warn:
		return when(true, Warn, 0.9, "value", late)
	case media.Error == "cpu" && late > cpuLimits["lag_pass"]/2:
		return when(true, Warn, 0.7, "value", late)
	}
	return nil
}

// starved reports whether the computer itself is so slow that what the page measured of the line says little.
func (e *evidence) starved() bool {
	cpu := e.check("cpu")
	return cpu.Verdict == Warn || cpu.Verdict == Fail
}

func clockSkew(e *evidence) []Finding {
	return when(e.clockOff(), Warn, 0.95, "minutes", e.g.ClockAhead.Abs().Minutes())
}
