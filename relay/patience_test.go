package relay

import (
	"testing"
	"time"
)

const testAge = 250 * time.Millisecond

// waited shows a patience the ages of video, one every 20 ms, and counts those it finds too old.
func (p *patience) waited(from time.Duration, ages ...time.Duration) (tooOld int) {
	for i, age := range ages {
		if age > p.limit(testAge, age, int64(from)+int64(i)*int64(20*time.Millisecond)) {
			tooOld++
		}
	}
	return tooOld
}

// ramp is ages from one to another, for so long.
func ramp(from, to, during time.Duration) (ages []time.Duration) {
	n := int(during / (20 * time.Millisecond))
	for i := range n {
		ages = append(ages, from+(to-from)*time.Duration(i)/time.Duration(n))
	}
	return ages
}

// A browser hears the queue grow and slows down: nothing of its video is dropped, however slowly the queue drains.
func TestPatienceWithASenderThatSlowsDown(t *testing.T) {
	p := &patience{hears: true}
	n := p.waited(time.Second, append(ramp(0, mostPatience*testAge, 3*time.Second), ramp(mostPatience*testAge, 0, 20*time.Second)...)...)
	if n > 0 || !p.lasts(testAge) {
		t.Errorf("%d packets are too old; ended: %v", n, !p.lasts(testAge))
	}
}

// When patience ends the queue becomes short at once, and half as much is left, until there is max_age.
func TestPatienceEnds(t *testing.T) {
	p := &patience{hears: true}
	now := time.Second
	for most := mostPatience * testAge; most > testAge; most /= 2 {
		if n := p.waited(now, most, most+1, most, testAge, testAge/2+1); n != 4 || p.most != most/2 {
			t.Errorf("with %v: %d of 4 packets are too old, then %v", most, n, p.most)
		}
		if n := p.waited(now, testAge/2, most/2); n != 0 {
			t.Errorf("with %v: the queue is short, and %d are too old", most, n)
		}
	}
	if n := p.waited(now, testAge, testAge+1, testAge); n != 1 || p.lasts(testAge) {
		t.Errorf("at last: %d of 1 are too old, lasts: %v", n, p.lasts(testAge))
	}
}

// Who hears of nothing is not waited for.
func TestPatienceWithTheDeaf(t *testing.T) {
	p := &patience{}
	if n := p.waited(time.Second, testAge, testAge+1, testAge); n != 1 || p.lasts(testAge) {
		t.Errorf("%d of 1 are too old, lasts: %v", n, p.lasts(testAge))
	}
}

// Patience comes back to a queue that does without drops, and not to one that drops.
func TestPatienceReturns(t *testing.T) {
	p := &patience{hears: true, most: testAge, since: 1}
	const step = int64(patienceReturns) / 2
	for i, age := range []time.Duration{testAge, testAge + 1, testAge, testAge} {
		if p.limit(testAge, age, 1+int64(i)*step); p.lasts(testAge) {
			t.Errorf("returns at step %d", i)
		}
	}
	for i, want := range []time.Duration{2 * testAge, 2 * testAge, 4 * testAge, 4 * testAge, 4 * testAge} {
		if got := p.limit(testAge, testAge, 2+int64(4+i)*step+int64(i)); got != want {
			t.Errorf("step %d without a drop: %v, want %v", 4+i, got, want)
		}
	}
}
