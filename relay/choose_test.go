package relay

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestChoice(t *testing.T) {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	type step struct {
		after    time.Duration // since the step before
		settling bool
		a, b     int // round trips in ms; 0: not usable
		want     string
	}
	tests := []struct {
		name  string
		steps []step
	}{
		{"the first that answers", []step{{0, true, 0, 40, "b"}}},
		{"a nearer one while settling", []step{{0, true, 0, 40, "b"}, {ms(100), true, 39, 40, "a"}}},
		{"none", []step{{0, true, 0, 0, ""}}},
		{"equals: the order of the configuration", []step{{0, false, 40, 40, "a"}}},
		{"dead: at once", []step{{0, false, 20, 90, "a"}, {ms(1), false, 0, 90, "b"}}},
		{"all dead, then one back", []step{{0, false, 20, 90, "a"}, {ms(1), false, 0, 0, ""}, {ms(1), false, 0, 90, "b"}}},
		{"nearer by little, for ever", []step{{0, false, 50, 60, "a"}, {0, false, 50, 41, "a"}, {time.Hour, false, 50, 41, "a"}}},
		{"nearer by 10 ms but not by a fifth", []step{{0, false, 100, 200, "a"}, {0, false, 100, 85, "a"}, {time.Hour, false, 100, 85, "a"}}},
		{"nearer by enough, not long enough", []step{{0, false, 50, 60, "a"}, {0, false, 50, 30, "a"}, {29 * time.Second, false, 50, 30, "a"}}},
		{"nearer by enough, long enough", []step{{0, false, 50, 60, "a"}, {0, false, 50, 30, "a"}, {30 * time.Second, false, 50, 30, "b"}}},
		{"a break starts the wait anew", []step{
			{0, false, 50, 60, "a"},
			{0, false, 50, 30, "a"},
			{20 * time.Second, false, 50, 45, "a"},
			{ms(1), false, 50, 30, "a"},
			{29 * time.Second, false, 50, 30, "a"},
			{time.Second, false, 50, 30, "b"},
		}},
		{"back after a death: only with hysteresis", []step{
			{0, false, 20, 90, "a"},
			{ms(1), false, 0, 90, "b"},
			{10 * time.Second, false, 20, 90, "b"},
			{29 * time.Second, false, 20, 90, "b"},
			{time.Second, false, 20, 90, "a"},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			now := time.Unix(1_800_000_000, 0)
			var c choice
			for i, s := range tt.steps {
				now = now.Add(s.after)
				before := c.region
				made := c.update(now, s.settling, []candidate{
					{name: "a", rtt: ms(s.a), usable: s.a > 0},
					{name: "b", rtt: ms(s.b), usable: s.b > 0},
				})
				if c.region != s.want {
					t.Fatalf("step %d: %q is chosen, want %q", i, c.region, s.want)
				}
				if (made != nil) != (before != c.region) {
					t.Fatalf("step %d: a change is told as %+v, but %q was chosen before and %q is now", i, made, before, c.region)
				}
				if made != nil && made.why == "" {
					t.Fatalf("step %d: a change without a reason", i)
				}
			}
		})
	}
}

// A wobble of ±8 ms on every round trip, for ten minutes, must never move anybody: independent noise, a slow swing in
// opposite directions, and steps.
func TestChoiceWobble(t *testing.T) {
	const wobble = 8 * time.Millisecond
	random := rand.New(rand.NewPCG(1, 2))
	tests := []struct {
		name string
		a, b func(second int) time.Duration
	}{
		{
			"noise",
			func(int) time.Duration {
				return 40*time.Millisecond + time.Duration(random.Int64N(int64(2*wobble))) - wobble
			},
			func(int) time.Duration {
				return 41*time.Millisecond + time.Duration(random.Int64N(int64(2*wobble))) - wobble
			},
		},
		{
			"all or nothing, every probe",
			func(s int) time.Duration { return 40*time.Millisecond + wobble*time.Duration(s/5%2*2-1) },
			func(s int) time.Duration { return 40*time.Millisecond - wobble*time.Duration(s/5%2*2-1) },
		},
		{
			"one swings slowly, the other stands",
			func(int) time.Duration { return 40 * time.Millisecond },
			func(s int) time.Duration { return 40*time.Millisecond + wobble*time.Duration(s/60%2*2-1) },
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			start := time.Unix(1_800_000_000, 0)
			var a, b health
			var c choice
			switches := 0
			for s := range 600 {
				now := start.Add(time.Duration(s) * time.Second)
				if s%5 == 0 {
					a.answered(now, tt.a(s))
					b.answered(now, tt.b(s))
				}
				made := c.update(now, s < 1, []candidate{
					{name: "a", rtt: a.rtt, usable: a.usable()},
					{name: "b", rtt: b.rtt, usable: b.usable()},
				})
				if made != nil && made.from != "" {
					switches++
				}
			}
			if switches != 0 {
				t.Errorf("%d switches", switches)
			}
		})
	}
}
