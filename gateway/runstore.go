package gateway

import (
	"sync"
	"time"

	"hafen/gateway/status"
	"hafen/precall"
)

// runNews is the last thing that the store of precall runs had to tell.
type runNews struct {
	mu                     sync.Mutex
	kind, sentence, advice string
	at                     time.Time
}

// setAsideShown is for how long the page reminds of a damaged store: a day, so that each shift sees it.
const setAsideShown = 24 * time.Hour

func (g *Gateway) storeSaid(kind, sentence, advice string) {
	g.runNews.mu.Lock()
	defer g.runNews.mu.Unlock()
	g.runNews.kind, g.runNews.sentence, g.runNews.advice, g.runNews.at = kind, sentence, advice, g.opts.Now()
}

// storeTest says whether precall runs are kept.
func (g *Gateway) storeTest() status.SelfTest {
	g.runNews.mu.Lock()
	defer g.runNews.mu.Unlock()
	n := &g.runNews
	failing := n.kind == precall.EventStoreFails
	replaced := n.kind == precall.EventStoreSetAside && g.opts.Now().Sub(n.at) < setAsideShown
	if !failing && !replaced {
		return status.SelfTest{Kind: "precall-store", State: "pass", Sentence: "Precall tests are kept."}
	}
	return status.SelfTest{Kind: "precall-store", State: "warn", Sentence: n.sentence, Advice: n.advice, Works: "Calls are not affected."}
}
