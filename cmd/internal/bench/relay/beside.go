package main

import (
	"fmt"
	"time"
)

// healthy are the hundred clients whose delay must not move.
var healthy = load{"100x50", 100, 50, 1, 1200}

// slowClients share a policed path that carries each of them 600 kbit/s.
const slowClients = 2

// runBeside measures the delays of healthy clients alone, and beside slow ones that are sent 1.5 Mbit/s of video each.
func (b *bench) runBeside() error {
	servers, err := b.startAll()
	if err != nil {
		return err
	}
	p := path{Name: "beside", Rate: slowClients * 600_000, Kind: "beside"}
	if err := b.world.lay(p); err != nil {
		return err
	}
	for round := range b.rounds {
		for i := range servers {
			s := servers[(i+round)%len(servers)]
			alone := healthy
			alone.Name += " alone"
			if err := b.runLoad(round, "tls", alone, s); err != nil {
				return err
			}
			wait := b.slow(p, s)
			beside := healthy
			beside.Name += fmt.Sprintf(" beside %d slow", slowClients)
			err := b.runLoad(round, "tls", beside, s)
			wait()
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// slow begins the calls of the slow clients, which last as long as a measurement, and returns what waits for their end.
func (b *bench) slow(p path, s *server) (wait func()) {
	t := s.target("tls")
	t.From = slowAddr
	p.Rate /= slowClients
	c := call{Path: p, Video: 1_500_000, Audios: 1, Seconds: 3 + int(b.duration/time.Second)}
	over := make(chan string, slowClients)
	for range slowClients {
		go func() {
			h := new(heard)
			if err := b.world.inside(spec{Role: "call", Target: t, Call: c}, h); err != nil {
				over <- err.Error()
				return
			}
			over <- fmt.Sprintf("audio p95 %.0f ms, %.2f %% lost", h.AudioP95, h.AudioLost)
		}()
	}
	time.Sleep(time.Second) // they are under way
	return func() {
		for range slowClients {
			fmt.Fprintf(b.log, "%s, a slow client: %s\n", s.name, <-over)
		}
	}
}
