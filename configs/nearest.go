package configs

import "strings"

// nearest finds the candidate that word was most likely meant to be: the one with the fewest typing mistakes, if they are
// few for its length. It returns "" when none is near.
func nearest(word string, candidates []string) string {
	best, fewest := "", len(word)/3+2
	for _, c := range candidates {
		if d := mistakes(strings.ToLower(word), c); d < fewest {
			best, fewest = c, d
		}
	}
	return best
}

// mistakes is the edit distance of two words, a swap of neighbours counting once (optimal string alignment).
func mistakes(a, b string) int {
	if len(a) > 64 {
		a = a[:64] // keys are short; what is this long is near to none of them
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
