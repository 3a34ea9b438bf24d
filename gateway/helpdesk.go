package gateway

import (
	"context"
	"errors"
	"math"
	"strings"
	"time"

	"hafen/gateway/status"
	"hafen/precall"
)

// helpdesk is what the help desk's page asks of the precall test.
func (g *Gateway) helpdesk() status.Helpdesk {
	return status.Helpdesk{Find: g.findRun, History: g.runHistory, Recent: g.recentRuns}
}

func (g *Gateway) runHistory(ctx context.Context, since time.Time) ([]status.RunCount, error) {
	counts, err := g.precall.History(ctx, since)
	out := make([]status.RunCount, 0, len(counts))
	for _, c := range counts {
		out = append(out, status.RunCount{Day: c.Day, Place: c.Place, Verdict: string(c.Verdict), Cause: c.Cause, Runs: c.Runs})
	}
	return out, err
}

func (g *Gateway) findRun(ctx context.Context, code, lang string) (status.FoundRun, error) {
	rec, err := g.precall.Find(ctx, code)
	if errors.Is(err, precall.ErrNoRun) {
		return status.FoundRun{}, status.ErrNoRun
	}
	if err != nil {
		return status.FoundRun{}, err
	}
	e := g.precall.Explain(rec, lang)
	out := status.FoundRun{
		Code: rec.Code, Time: rec.Time.Local(), Verdict: string(rec.Result.Verdict), Place: e.Place, Sentence: e.Sentence,
		Caller: e.Caller, CallerLang: e.CallerLang, Ticket: e.Ticket,
	}
	for i, c := range e.Report.Causes {
		out.Causes = append(out.Causes, status.FoundCause{Title: e.Titles[i], User: c.Advice.User, IT: c.Advice.IT, Percent: int(math.Round(100 * c.Confidence))})
	}
	for _, c := range e.Report.Checks {
		row := status.FoundCheck{
			Verdict: string(c.Verdict), Word: g.precall.Word(c.Verdict, lang), Name: g.precall.Name(c.ID, lang), Target: c.Target,
			Value: precall.Value(c, lang), Detail: c.Detail,
		}
		if strings.HasPrefix(c.ID, "gateway:") || c.ID == "clock" {
			out.Gateway = append(out.Gateway, row)
		} else {
			out.Page = append(out.Page, row)
		}
	}
	return out, nil
}
