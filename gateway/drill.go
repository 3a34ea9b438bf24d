package gateway

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"hafen/relay"
)

// DrillReport is what browsers did while a region was cut.
type DrillReport struct {
	Service string        `json:"service"`
	Region  string        `json:"region"`
	Began   time.Time     `json:"began"`
	Lasts   time.Duration `json:"lasts_ns"`
	// Stayed are sessions that ran in the region all the while.
	Stayed int `json:"stayed"`
	// Went are the sessions of the service that began meanwhile, by where they went.
	Went []DrillRow `json:"went"`
	// Failed are clients that won no allocation.
	Failed int `json:"failed"`
}

// DrillRow counts the sessions that took one way.
type DrillRow struct {
	Region   string `json:"region"`
	Rung     string `json:"rung"`
	Sessions int    `json:"sessions"`
}

// drill is the one that runs, or ran last.
type drill struct {
	mu     sync.Mutex
	report DrillReport
	went   map[[2]string]int // sessions that have ended already
}

// begin cuts a region; d 0 ends the drill.
func (g *Gateway) beginDrill(service, region string, d time.Duration) error {
	if err := g.relay.Drill(service, region, d); err != nil {
		return err
	}
	if d == 0 {
		return nil
	}
	g.watch.drill.mu.Lock()
	defer g.watch.drill.mu.Unlock()
	g.watch.drill.report = DrillReport{Service: service, Region: region, Began: g.opts.Now(), Lasts: d}
	g.watch.drill.went = make(map[[2]string]int)
	return nil
}

// ended counts a session that began and ended within the drill.
func (d *drill) ended(e relay.End) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := &d.report
	if r.Began.IsZero() || e.Test || e.Service != r.Service || e.Started.Before(r.Began) || e.Started.After(r.Began.Add(r.Lasts)) {
		return
	}
	if !e.Won {
		r.Failed++
		return
	}
	d.went[[2]string{e.Region, e.Rung}]++
}

// drillReport adds the sessions that still run.
func (g *Gateway) drillReport() DrillReport {
	d := &g.watch.drill
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.report
	went := make(map[[2]string]int)
	for way, n := range d.went {
		went[way] = n
	}
	for _, s := range g.relay.Status().Sessions {
		switch {
		case s.Service != r.Service || s.State != "allocated" || s.Test:
		case s.Started.Before(r.Began):
			if s.Region == r.Region {
				r.Stayed++
			}
		case !s.Started.After(r.Began.Add(r.Lasts)):
			went[[2]string{s.Region, s.Rung}]++
		}
	}
	for way, n := range went {
		r.Went = append(r.Went, DrillRow{way[0], way[1], n})
	}
	slices.SortFunc(r.Went, func(a, b DrillRow) int {
		return cmp.Or(cmp.Compare(b.Sessions, a.Sessions), cmp.Compare(a.Region, b.Region), cmp.Compare(a.Rung, b.Rung))
	})
	return r
}

// controlDrill is the control socket's part of it: POST begins or ends a drill, GET tells how it goes.
func (g *Gateway) controlDrill(mux *http.ServeMux) {
	mux.HandleFunc("POST /drill", func(w http.ResponseWriter, r *http.Request) {
		service, region, ok := strings.Cut(r.URL.Query().Get("region"), "/")
		d, err := time.ParseDuration(r.URL.Query().Get("for"))
		if !ok || err != nil {
			http.Error(w, "write region=SERVICE/REGION and for=2m", http.StatusBadRequest)
			return
		}
		if err := g.beginDrill(service, region, d); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /drill", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(g.drillReport()) // the one who asked may be gone
	})
}
