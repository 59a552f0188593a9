"""More kinds of irrelevant text, so that no one kind in front is what the zones are told by.

Each kind is a list of templates with the placeholders of `background.py`. Everyday remarks and the stage are left out
on purpose: those stand in front of the prompts that judge.
"""

from __future__ import annotations

NEWS = (
    "{town} (own report) - The council approved a budget of {number} million on Tuesday evening.",
    "Shares of the ferry operator fell by {two} percent after its third profit warning this year.",
    "Police in {town} are looking for witnesses of a collision near the {thing}.",
    "The central bank left its key rate unchanged, a step that most analysts had expected.",
    "Forecasters warn of gusts of up to {number} kilometres an hour along the coast.",
    "A spokeswoman declined to comment on reports that {person} will resign next month.",
    "Turnout reached {two} percent, the highest figure in a generation.",
    "The strike at the port entered its second week without any sign of a compromise.",
)
LEGAL = (
    "The Tenant shall keep the premises in good repair and shall not assign this lease without written consent.",
    "Notwithstanding section {two}, the Supplier is not liable for any indirect or consequential loss.",
    "For the purposes of this agreement, 'Equipment' means the items that are listed in Schedule {two}.",
    "Either party may terminate upon {two} days' notice if the other is in material breach.",
    "Any dispute arising hereunder shall be settled by arbitration in {town}.",
    "The deposit of {number} crowns is refundable, less the reasonable cost of cleaning.",
    "Headings are inserted for convenience only and do not affect interpretation.",
    "A waiver is effective only if it is given in writing and signed by both parties.",
)
TRAVEL = (
    "Day {two}: we walked along the ridge above {town} and saw nobody but a shepherd.",
    "The hostel had bunk beds, cold showers and a view that made up for both.",
    "I tried the local dumplings, burned my tongue, and ordered a second plate.",
    "Our bus broke down halfway up the pass, so everyone pushed.",
    "{person} insisted on visiting the {thing}, which was closed for repairs.",
    "By sunset we had found a cheap room, a warm lake and the wrong map.",
    "Ferry tickets cost {two} coins and must be bought from the man in the blue cap.",
    "My boots are still wet from yesterday, but the sky is clearing in the south.",
)
SPORTS = (
    "Kvam takes the corner, headed away, and it falls to Ruud on the edge of the box!",
    "That makes it {two} to {two2} at the end of the third quarter.",
    "The home side has not won at this ground since the new stand was opened.",
    "Replays show that the ball had crossed the line before the whistle.",
    "She clears the bar at the second attempt and waves to the crowd.",
    "Lap {two}, and the gap to the leader is down to four seconds.",
    "A substitution for {town}: number {two} goes off, number {two2} comes on.",
    "What a save! He will be seeing that one in his sleep.",
)
CODE = (
    "for index in range({two}): total += weights[index] * inputs[index]",
    "# NOTE: this cache is flushed every {number} ms, see the module's header",
    "if (buffer == NULL || length > {number}) return -1;",
    "SELECT id, name FROM visitors WHERE town = '{town}' ORDER BY id DESC LIMIT {two};",
    "const handler = async (event) => await queue.push(event.payload);",
    "def area(width, height): return width * height  # both in metres",
    "export PATH=$HOME/tools/bin:$PATH && make -j{two} install",
    "class {thing}Error(RuntimeError): pass",
    "assert response.status_code == {number}, response.text",
)
EMAIL = (
    "Hi all, please find the agenda for Thursday below; item {two} has moved to next week.",
    "Kind regards, {person}, Facilities and Estates",
    "Just a quick reminder that timesheets are due by noon tomorrow.",
    "Thanks for the draft. I have left a few comments from page {two} onwards.",
    "Could somebody book the large room in the {thing} building for the visitors?",
    "As discussed on the phone, the invoice over {number} crowns will be reissued.",
    "I am out of the office until the {two}th and will answer when I am back.",
    "Sorry for the late reply, my inbox has been overflowing since the move.",
)
HISTORY = (
    "In the year 9{two} the settlement passed to a bishop, who fortified its only gate.",
    "The treaty divided the valley between two heirs, neither of whom could read it.",
    "Trade along the amber route declined after the silting of the harbour.",
    "By the end of the century a third of the population had emigrated overseas.",
    "The dynasty ended with {person}'s grandfather, who abdicated in favour of a republic.",
    "Coins found beneath the {thing} suggest contact with merchants from the east.",
    "A famine in 17{two} was followed by a revolt, and the revolt by a census.",
    "Monks copied the chronicle {two} times; only one copy survived the fire.",
)
FAQ = (
    "Q: How do I reset the device? A: Hold the power button for {two} seconds.",
    "Q: Can I use it outdoors? A: Yes, but keep the charger dry.",
    "Q: Why does the display flicker? A: The battery is low, or the cable is loose.",
    "Q: Where is the serial number? A: Under the lid, next to the code {number}.",
    "Q: Is the warranty valid abroad? A: It covers {two} countries; see the leaflet.",
    "Q: How often should the filter be replaced? A: Every {two} weeks in normal use.",
    "Q: The lamp stays red. What now? A: Unplug the unit and wait until it has cooled.",
)
OTHER_LANGUAGES = (
    "Der Zug nach {town} hat heute leider {two} Minuten Verspätung.",
    "La biblioteca cierra los lunes y abre los domingos por la mañana.",
    "Le marché de {town} se tient sur la place, devant la vieille fontaine.",
    "Im Herbst sammeln wir Pilze, und im Winter erzählen wir davon.",
    "Il treno delle {two} parte dal binario {two2}, come sempre.",
    "Mi abuela plantó un limonero el día en que nació {person}.",
    "On dit que {person} connaît tous les oiseaux de la région par leur nom.",
)
MORE_STYLES = {
    "news": NEWS,
    "legal": LEGAL,
    "travel": TRAVEL,
    "sports": SPORTS,
    "code": CODE,
    "email": EMAIL,
    "history": HISTORY,
    "faq": FAQ,
    "other languages": OTHER_LANGUAGES,
}
