package relay

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// RegionEvent is something that happened to a region.
type RegionEvent struct {
	Time    time.Time `json:"time"`
	Service string    `json:"service"`
	Region  string    `json:"region,omitempty"`
	// Kind is region_up, region_down, region_chosen, rung_up, rung_down, rung_note, name_lost, name_found or client_moved.
	Kind string `json:"kind"`
	Text string `json:"text"`
}

// RegionEvents are the newest things that happened to the regions, oldest first.
func (s *Server) RegionEvents() []RegionEvent { return s.regions().events.list() }

// eventRing keeps the newest events.
type eventRing struct {
	mu     sync.Mutex
	events []RegionEvent
}

const maxEvents = 200

func (e *eventRing) add(ev RegionEvent) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.events) == maxEvents {
		copy(e.events, e.events[1:])
		e.events = e.events[:maxEvents-1]
	}
	e.events = append(e.events, ev)
}

func (e *eventRing) list() []RegionEvent {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]RegionEvent(nil), e.events...)
}

// tale is what has been told of a region, so that only news is told.
type tale struct {
	state   string
	unnamed bool
	rungs   map[*rung]toldRung
}

type toldRung struct {
	state pathState
	note  string
}

// tell makes events of what has changed in the region. The caller holds mu.
func (g *region) tell(now time.Time) {
	if g.told.rungs == nil {
		g.told.rungs = make(map[*rung]toldRung)
	}
	unnamed := ""
	for _, rg := range g.rungs {
		if rg.unnamed != "" {
			unnamed = rg.unnamed
		}
		g.tellRung(now, rg)
	}
	if (unnamed != "") != g.told.unnamed {
		g.told.unnamed = unnamed != ""
		if unnamed != "" {
			g.event(now, "name_lost", unnamed)
		} else {
			g.event(now, "name_found", "its names resolve again")
		}
	}
	state, reason := g.state()
	before := g.told.state
	g.told.state = state
	switch {
	case state == before:
	case state == string(stateDown):
		g.event(now, "region_down", reason)
	case state == string(stateUp) && before == string(stateDown):
		g.event(now, "region_up", "over "+g.best().name)
	case state == string(stateUnknown):
		g.told.state = before // no news
	}
}

func (g *region) tellRung(now time.Time, rg *rung) {
	state, reason := rg.state()
	note := ""
	if rg.current != nil {
		note = rg.current.note
	}
	before := g.told.rungs[rg]
	if state == stateUnknown || state == before.state && note == before.note {
		return
	}
	g.told.rungs[rg] = toldRung{state, note}
	switch {
	case state == stateDown && before.state != stateDown:
		g.event(now, "rung_down", rg.name+": "+reason)
	case state == stateUp && before.state == stateDown:
		g.event(now, "rung_up", rg.name+" works")
	}
	if note != "" && note != before.note {
		g.event(now, "rung_note", rg.name+": "+note)
	}
}

func (g *region) event(now time.Time, kind, text string) {
	g.out.event(RegionEvent{Time: now, Service: g.service, Region: g.name, Kind: kind, Text: text})
}

func (r *regions) tellChoice(now time.Time, s *callService, made *change) {
	r.event(RegionEvent{Time: now, Service: s.name, Region: made.to, Kind: "region_chosen", Text: made.why})
}

func (r *regions) tellSticky(now time.Time, refusing, asked *region) {
	asked.event(now, "client_moved", fmt.Sprintf("%s refused a client's credentials: it gets %s, which it asked for, from now on. "+
		"If that happens often, the regions do not accept the same credentials: set choose: as-asked", refusing.name, asked.name))
}

func (r *regions) event(ev RegionEvent) {
	if r.retired {
		return // whoever came after it tells
	}
	r.events.add(ev)
	r.unsaid = append(r.unsaid, ev)
}

// say logs what has happened. The log may block, so the caller does not hold mu.
func (r *regions) say() {
	r.mu.Lock()
	unsaid := r.unsaid
	r.unsaid = nil
	r.mu.Unlock()
	for _, ev := range unsaid {
		level := slog.LevelInfo
		switch ev.Kind {
		case "region_down", "name_lost", "rung_note", "client_moved":
			level = slog.LevelWarn
		}
		r.log.Log(context.Background(), level, ev.Text, "event", ev.Kind, "service", ev.Service, "region", ev.Region)
	}
}
