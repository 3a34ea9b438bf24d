package relay

import (
	"slices"
	"testing"
	"time"

	"github.com/pion/stun/v2"
)

// RFC 8489 section 6.2.1: with an RTO of 500 ms at 0, 500, 1500, 3500, 7500, 15500 and 31500 ms.
func TestRetransmitter(t *testing.T) {
	var r retransmitter
	start := time.Unix(1000, 0)
	one, two := request(stun.MethodAllocate), request(stun.MethodRefresh)
	r.add(one, start)
	var at []int
	for ms := 100; ms < 60000; ms += 100 {
		for range r.due(start.Add(time.Duration(ms)*time.Millisecond), nil) {
			at = append(at, ms)
		}
	}
	if want := []int{500, 1500, 3500, 7500, 15500, 31500}; !slices.Equal(at, want) {
		t.Errorf("sent again after %v ms, want %v", at, want)
	}
	if len(r.list) != 0 {
		t.Errorf("%d requests are never forgotten", len(r.list))
	}

	r.add(one, start)
	r.add(two, start)
	r.answered(transactionOf(one))
	if due := r.due(start.Add(time.Second), nil); len(due) != 1 || string(due[0]) != string(two) {
		t.Errorf("%d due, want the unanswered one", len(due))
	}
	r.answered(transactionOf(one)) // twice, or unknown: nothing happens
	for range 3 * maxOutstanding {
		r.add(one, start)
	}
	if len(r.list) != maxOutstanding {
		t.Errorf("%d requests are remembered", len(r.list))
	}
}
