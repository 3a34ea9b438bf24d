package precall

import "slices"

// lineCauses are those of a way that is open and not good.
func lineCauses() []cause {
	return []cause{
		{"loss-high", lossHigh},
		{"bandwidth-low", bandwidthLow},
		{"latency-high", latencyHigh},
		{"jitter-high", jitterHigh},
		{"bufferbloat", bufferbloat},
		{"wifi-weak-suspected", weakWiFi},
	}
}

// bad reports whether a check has a value that is not good.
func bad(c Judged) bool { return c.Value != nil && (c.Verdict == Warn || c.Verdict == Fail) }

// muddied is the confidence in what was measured on a line, less where something else explains it too.
func (e *evidence) muddied(confidence float64, by ...bool) float64 {
	if e.starved() {
		confidence -= 0.4
	}
	for _, explained := range by {
		if explained {
			confidence -= 0.3
		}
	}
	return max(0.2, confidence)
}

// severity of what was measured on a line: a computer that can't keep up spoils every measurement, and is to be cured first.
func (e *evidence) severity(c Judged) Verdict {
	if e.starved() {
		return Warn
	}
	return c.Verdict
}

func lossHigh(e *evidence) []Finding {
	c := e.check("loss")
	if !bad(c) {
		return nil
	}
	return when(true, e.severity(c), e.muddied(0.95), "value", *c.Value, "limit", e.t["loss_pass"])
}

// narrow reports whether the line carries too little.
func (e *evidence) narrow() bool { return len(bandwidthLow(e)) > 0 }

// lossy reports whether so much is lost that TCP, over which the bandwidth is measured, suffers.
func (e *evidence) lossy() bool {
	c := e.check("loss")
	return bad(c)
}

// bandwidthLow: what TCP carries one way, or what the browser made of the picture because the path carried no more.
func bandwidthLow(e *evidence) []Finding {
	up, down, media := e.check("bandwidth-up"), e.check("bandwidth-down"), e.check("relay:media")
	worst, direction := Judged{}, Text("direction.both")
	// On an unsteady or lossy line the browser sends less of its own accord: where TCP carries enough both ways, it is not the width.
	careful := works(up) && works(down) && !bad(up) && !bad(down) && (bad(e.check("jitter")) || e.lossy())
	for _, c := range []Judged{media, up, down} {
		if !bad(c) || c.ID == "relay:media" && careful || c.ID == "relay:media" && c.Error != "bandwidth" || worst.Value != nil && *worst.Value <= *c.Value {
			continue
		}
		worst = c
	}
	if worst.Value == nil {
		return nil
	}
	switch {
	case bad(up) && !bad(down):
		direction = "direction.up"
	case bad(down) && !bad(up):
		direction = "direction.down"
	}
	f := when(true, e.severity(worst), e.muddied(0.93, e.lossy()), "value", *worst.Value, "limit", e.t["bandwidth_pass"], "direction", direction)
	if e.lossy() && worst.ID != "relay:media" {
		f[0].Note = "tcp-only"
	}
	return f
}

// latencyHigh: the longer part is the way to the gateway; else the region is far.
func latencyHigh(e *evidence) []Finding {
	c := e.check("rtt")
	if !bad(c) || len(regionFar(e)) > 0 {
		return nil
	}
	near, far := *c.Value, 0.0
	if c.Params != nil {
		near, far = c.Params["near"], c.Params["far"]
	}
	return when(true, e.severity(c), e.muddied(0.92, e.shaken(c)), "value", *c.Value, "limit", e.t["rtt_pass"], "near", near, "far", far)
}

// shaken reports whether a round trip is long only because the line is unsteady: both ways are late on average by about the jitter.
func (e *evidence) shaken(rtt Judged) bool {
	jitter := e.check("jitter")
	return bad(jitter) && *rtt.Value-2**jitter.Value <= e.t["rtt_pass"]
}

// jitterHigh: a narrow or lossy line is unsteady as well.
func jitterHigh(e *evidence) []Finding {
	c := e.check("jitter")
	if !bad(c) {
		return nil
	}
	return when(true, e.severity(c), e.muddied(0.9, e.narrow(), e.lossy()), "value", *c.Value, "limit", e.t["jitter_pass"])
}

// bufferbloat: a queue that grows long under load. On a line that is too narrow anyway it is not what to cure first.
func bufferbloat(e *evidence) []Finding {
	c := e.check("latency-under-load")
	if !bad(c) {
		return nil
	}
	jittery := bad(e.check("jitter"))
	return when(true, Warn, e.muddied(0.85, e.narrow(), e.lossy(), jittery), "value", *c.Value, "limit", e.t["latency_under_load_pass"])
}

// weakWiFi: round trips that are short at best and long at times, with jitter or loss, are those of a weak radio link. A cable has none.
func weakWiFi(e *evidence) []Finding {
	if e.m.Connection == "ethernet" || e.narrow() || e.starved() || !bad(e.check("jitter")) {
		return nil
	}
	i := slices.IndexFunc(e.m.Series, func(s Series) bool { return s.ID == "rtt" })
	if i < 0 || len(e.m.Series[i].Values) < 20 {
		return nil
	}
	times := slices.Sorted(slices.Values(e.m.Series[i].Values))
	best, mostly := times[len(times)/20], times[len(times)*19/20]
	confidence := 0.35
	if e.m.Connection == "wifi" {
		confidence = 0.6
	}
	return when(best < 30 && mostly > 5*best+40, Warn, confidence)
}
