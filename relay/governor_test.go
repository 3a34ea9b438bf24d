package relay

import (
	"testing"
	"time"
)

// simulatedPath is a connection of which everything is known: a rate, a round trip, a buffer in the path, and what happens when it is full.
type simulatedPath struct {
	rate   float64 // bytes a second
	rtt    time.Duration
	bucket float64 // a policer's, bytes; 0: the path has a buffer without end

	queue   []int64 // arrival times of bytes at the client, one for each segment under way
	sizes   []int
	busy    int64 // until when the path is busy
	level   float64
	levelAt int64
	retrans uint32
	acked   int
}

// send takes n bytes; a segment that the policer drops is sent again 200 ms later.
func (p *simulatedPath) send(n int, now int64) {
	if p.bucket > 0 {
		p.level = max(0, p.level-p.rate*float64(now-p.levelAt)/1e9)
		p.levelAt = now
		at := now
		if p.level += float64(n); p.level > p.bucket {
			p.level -= float64(n)
			p.retrans++
			at += int64(200 * time.Millisecond)
		}
		p.busy = max(p.busy, at)
	} else {
		p.busy = max(p.busy, now) + int64(float64(n)/p.rate*1e9)
	}
	p.queue = append(p.queue, p.busy+int64(p.rtt))
	p.sizes = append(p.sizes, n)
}

func (p *simulatedPath) underway(now int64) (bytes int) {
	for len(p.queue) > 0 && p.queue[0] <= now {
		p.acked += p.sizes[0]
		p.queue, p.sizes = p.queue[1:], p.sizes[1:]
	}
	for _, n := range p.sizes {
		bytes += n
	}
	return bytes
}

// drive has a governor write as much as it allows, as a stream that never runs out would, for some simulated seconds. It returns the share
// of the path's rate that arrived in the second half, and the share of time in which the oldest byte was under way for too long.
func drive(p *simulatedPath, demand float64, tooLong time.Duration) (g *governor, used, late float64) {
	g = new(governor)
	const total, step = 20 * int64(time.Second), int64(time.Millisecond)
	written, half, lateSteps, wake := int64(0), 0, 0, int64(0)
	waits := 0.0 // what the application has to send
	for now := step; now <= total; now += step {
		waits = min(waits+demand*float64(step)/1e9, 40<<10)
		age := g.saw(p.underway(now), false, now)
		if age > tooLong {
			lateSteps++
		}
		if now == total/2 {
			half = p.acked
		}
		for now >= wake && waits >= 1200 {
			age = g.saw(p.underway(now), false, now)
			info := pathInfo{minRTT: p.rtt, retrans: p.retrans}
			room, wait := g.young(), youngPause
			if g.slow == nil && age > info.minRTT+lateDelay {
				g.slowDown(age, info, now)
			}
			if g.slow != nil && !g.recovered(now) {
				room, wait = g.may(age, info, now)
			}
			if room == 0 {
				wake = now + int64(wait)
				break
			}
			n := min(room, 1200)
			p.send(n, now)
			waits -= float64(n)
			written += int64(n)
			g.wrote(written, now)
		}
	}
	return g, float64(p.acked-half) / (p.rate * float64(total/2) / 1e9), float64(lateSteps) / float64(total/step)
}

func TestGovernorKeepsASlowPathBusyAndShort(t *testing.T) {
	for name, p := range map[string]*simulatedPath{
		"600 kbit/s":               {rate: 75e3},
		"600 kbit/s, 100 ms away":  {rate: 75e3, rtt: 100 * time.Millisecond},
		"300 kbit/s":               {rate: 37.5e3},
		"1.2 Mbit/s, 40 ms away":   {rate: 150e3, rtt: 40 * time.Millisecond},
		"policed":                  {rate: 75e3, bucket: 20 << 10},
		"policed, a deeper bucket": {rate: 150e3, bucket: 64 << 10},
	} {
		g, used, late := drive(p, 3*p.rate, p.rtt+150*time.Millisecond)
		if g.slow == nil {
			t.Errorf("%s: not found to be slow", name)
		}
		if used < 0.8 || used > 1.2 || late > 0.15 {
			t.Errorf("%s: %.0f %% of the path is used, too much under way for %.1f %% of the time", name, 100*used, 100*late)
		}
	}
}

func TestGovernorLeavesAFastPathAlone(t *testing.T) {
	for name, p := range map[string]*simulatedPath{
		"10 Mbit/s":                 {rate: 1.25e6, rtt: 10 * time.Millisecond},
		"10 Mbit/s, 250 ms away":    {rate: 1.25e6, rtt: 250 * time.Millisecond},
		"just enough, 30 ms away":   {rate: 200e3, rtt: 30 * time.Millisecond},
		"policed above what it has": {rate: 250e3, bucket: 20 << 10},
	} {
		g, used, _ := drive(p, 180e3, time.Hour)
		if g.slow != nil || used*p.rate < 170e3 {
			t.Errorf("%s: slow %v, %.0f bytes/s pass", name, g.slow != nil, used*p.rate)
		}
	}
}

// A path that was slow once and has recovered is as before.
func TestGovernorForgets(t *testing.T) {
	g := new(governor)
	now := int64(time.Second)
	g.wrote(5000, now)
	late := g.saw(5000, false, now+int64(200*time.Millisecond))
	if late < 200*time.Millisecond {
		t.Fatalf("late is %v", late)
	}
	now += int64(late)
	g.slowDown(late, pathInfo{}, now)
	if room, wait := g.may(late, pathInfo{}, now); room != 0 || wait <= 0 || wait > longestPause {
		t.Errorf("with 5,000 bytes under way: room %d, wait %v", room, wait)
	}
	if g.recovered(now + int64(slowMemory)/2) {
		t.Error("recovered too soon")
	}
	if !g.recovered(now+int64(slowMemory)) || g.slow != nil {
		t.Error("not recovered")
	}
}

// Whoever looks only after the path has moved sees that it stood.
func TestGovernorSeesAStallThatIsOver(t *testing.T) {
	g := new(governor)
	g.wrote(5000, int64(time.Second))
	end := int64(time.Second + 210*time.Millisecond)
	if late := g.saw(0, true, end); late != 210*time.Millisecond {
		t.Errorf("late is %v", late)
	}
	g.wrote(10000, end)
	if late := g.saw(0, false, 10*end); late != 0 {
		t.Errorf("late is %v, though nobody waited", late)
	}
}

// On a slow path that has room, only the pace makes a message wait, and it may be urged; what is under way may not.
func TestGovernorUrges(t *testing.T) {
	const ms = int64(time.Millisecond)
	g := new(governor)
	if g.urges() {
		t.Error("on a fast path there is nothing to urge")
	}
	info := pathInfo{minRTT: 10 * time.Millisecond}
	g.wrote(20_000, 0)
	g.saw(10_000, false, 200*ms)
	g.slowDown(200*time.Millisecond, info, 200*ms)
	if room, _ := g.may(150*time.Millisecond, info, 201*ms); room != 0 || g.urges() {
		t.Errorf("10,000 bytes are under way: room %d, urged %v", room, g.urges())
	}
	g.saw(0, false, 400*ms)
	if room, _ := g.may(0, info, 400*ms); room == 0 || g.urges() {
		t.Errorf("nothing is under way: room %d, urged %v", room, g.urges())
	}
	g.wrote(21_500, 400*ms)
	if room, wait := g.may(0, info, 401*ms); room != 0 || wait == 0 || !g.urges() {
		t.Errorf("a packet is under way: room %d, wait %v, urged %v", room, wait, g.urges())
	}
}
