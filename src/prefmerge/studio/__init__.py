"""The page with the dials: `prefmerge studio`. `opened` what it works on, `asked` what the page sends, `measured` and
`layers` what it shows, `front` the sweep, `given` what is dropped on it, `written` the model; `server` and `guard` the
way in; `page` what the browser gets.
"""
