package relay

import "time"

// How requests are retransmitted on a datagram leg (RFC 8489 section 6.2.1): after 500 ms, then with doubled pauses, seven times
// in all. The client, on a stream, sends each request once.
const (
	firstRTO         = 500 * time.Millisecond
	requestCount     = 7
	lastWait         = 16 * firstRTO
	maxOutstanding   = 16
	retransmitPeriod = 100 * time.Millisecond // how often is looked whether one is due
)

type transactionID [12]byte

func transactionOf(frame []byte) transactionID { return transactionID(frame[8:20]) }

// outstanding is one request that has not been answered.
type outstanding struct {
	id      transactionID
	request []byte
	sent    int
	rto     time.Duration
	next    time.Time
}

// retransmitter remembers a session's requests until they are answered. Beyond maxOutstanding a request is sent once: no client
// has that many under way, and each keeps a copy of its message here.
type retransmitter struct{ list []outstanding }

// add remembers a copy of a request that has just been sent.
func (r *retransmitter) add(request []byte, now time.Time) {
	if len(r.list) >= maxOutstanding || len(request) < stunHeaderSize {
		return
	}
	r.list = append(r.list, outstanding{
		id: transactionOf(request), request: append([]byte(nil), request...), sent: 1, rto: firstRTO, next: now.Add(firstRTO),
	})
}

// answered forgets the request that an answer belongs to.
func (r *retransmitter) answered(id transactionID) {
	for i := range r.list {
		if r.list[i].id == id {
			r.remove(i)
			return
		}
	}
}

func (r *retransmitter) remove(i int) {
	last := len(r.list) - 1
	r.list[i] = r.list[last]
	r.list[last] = outstanding{}
	if r.list = r.list[:last]; last == 0 {
		r.list = nil
	}
}

// due appends the requests that are to be sent again now to out, and forgets those that were sent often enough.
func (r *retransmitter) due(now time.Time, out [][]byte) [][]byte {
	for i := len(r.list) - 1; i >= 0; i-- {
		o := &r.list[i]
		switch {
		case now.Before(o.next):
		case o.sent >= requestCount:
			r.remove(i)
		default:
			o.sent++
			o.rto *= 2
			o.next = now.Add(o.rto)
			if o.sent == requestCount {
				o.next = now.Add(lastWait)
			}
			out = append(out, o.request)
		}
	}
	return out
}
