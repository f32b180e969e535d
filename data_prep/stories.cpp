/* data_prep/stories.cpp: simple English children's stories, any number of bytes, for a machine without network.

       ./stories --bytes 4000000 --seed 1 --out data/stories.txt

   Plain ASCII, one paragraph a line, two blank lines after each story; the last story is whole, so the text is up
   to a story longer than asked. The same seed gives the same text, and a longer text begins with the shorter one.

   How it works: a story is a plot (a text with holes) filled in from tables of words.
       [a|b|c]   one of these, chosen anew each time; they nest, and may be empty
       {key}     an entry of ONCE: chosen once a story and kept (who, where, what), no two of them the same word,
                 or of WORDS: chosen anew each time; {he_{sex}} makes the key out of another
   Then "a" becomes "an" where it must and sentences get their capital letter. */
#include "../rwkv/options.h"
#include "../rwkv/rng.h"
#include <map>

struct Entry { const char *key, *choices; };
struct Plot { const char *title, *text, *season = nullptr; };

static const Entry ONCE[] = {
    {"sex", "m|f"}, {"sex2", "m|f"}, {"sex3", "m|f"},
    {"kind", "c|c|a"}, {"kind2", "c|c|a"},                     // child or animal
    {"season", "1|2|3|4"},                                     // spring, summer, autumn, winter
    {"hero", "{name_{sex}}"}, {"friend", "{name_{sex2}}"},
    {"animal", "{beast}"}, {"animal2", "{beast}"},
    {"helper", "{elder_{sex3}}"},
    {"home", "a {small} [village|town|house|cottage|valley] {by} [the sea|a wide river|a green hill|the old forest|the mountains|a round lake|a windmill]"},
    {"toy", "kite|drum|toy boat|music box|little cart|paper lantern|whistle|spinning top|rocking horse|toy train|puppet|sled|fiddle|cuckoo clock|model ship|"
            "scooter|wooden duck|teddy bear|marble|telescope|flute|trumpet|umbrella|tin soldier|rag doll|yo-yo|skipping rope"},
    {"colour", "red|blue|green|yellow|orange|purple|white|silver|golden|pink|brown|striped|spotted"},
    {"colour2", "red|blue|green|yellow|orange|purple|white|grey|golden|pink|brown"},
    {"food", "cake|bread|soup|apple pie|pancakes|porridge|honey cakes|plum tart|cookies|corn bread|jam tarts|pumpkin pie|oat biscuits|noodles|cheese rolls"},
    {"spot", "under the bed|behind the stove|in the apple tree|beside the well|under the bridge|in the tall grass|behind the barn|on the garden wall|in the hollow log|"
             "under a pile of leaves|by the duck pond|in the hay|on the roof of the shed|next to the mill|in the washing basket|between two stones"},
    {"place", "forest|meadow|market|beach|hill|orchard|river|park|harbour|valley|old mill|duck pond"},
    {"number", "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"},
    {"fear", "the dark|thunder|deep water|high places|the big dog next door|the long tunnel|the attic|loud noises|the owl in the barn|going to school alone"},
    {"gift", "scarf|cup|basket|blanket|hat|candle|book of poems|jar of honey|pair of mittens|bunch of flowers|string of beads|bag of nuts|painted stone|pot of jam"},
    {"plant", "roses|tulips|beans|pumpkins|sunflowers|strawberries|daisies|peas|bluebells|carrots|poppies|melons"},
    {"small_animal", "bird|duckling|kitten|hedgehog|lamb|turtle|squirrel|puppy|frog|mouse|goat|pony|swan|robin"},
    {"pet", "Button|Crumb|Pepper|Biscuit|Snow|Acorn|Pebble|Nutmeg|Dot|Feather|Clover|Bramble|Pudding|Twig"},
    {"wish", "fly like a bird|see the whole world|talk with the fish|be as tall as a tree|have snow in summer|sail to the moon|never go to bed|sing like a lark|swim like an otter|paint the sky"},
    {"chore", "carry water from the well|pick the apples|sweep the yard|stack the wood|feed the hens|weed the garden|wash the windows|bring in the hay|mend the fence|paint the gate"},
};

static const Entry WORDS[] = {
    {"name_m", "Tom|Ben|Leo|Max|Sam|Finn|Jack|Noah|Hugo|Oscar|Theo|Milo|Adam|Felix|Oliver|Arthur|Peter|Daniel|Simon|Martin|Emil|Otto|Paul|Robin|Jasper|Caleb|Rowan|Anton|"
               "Ivan|Omar|Ravi|Kenji|Mateo|Diego|Tariq|Bruno|Barney|Alfie|Toby|Henry|Walter|Edgar|Kofi|Nico|Pip|Archie|Gus"},
    {"name_f", "Mia|Lily|Anna|Emma|Rosa|Clara|Ella|Nora|Lucy|Alice|Molly|Daisy|Ruby|Hazel|Ivy|Flora|Greta|Hanna|Ida|Julia|Kate|Lena|Maria|Nina|Olga|Poppy|Sara|Tilda|Vera|Zoe|"
               "Amina|Yuki|Priya|Leila|Carmen|Lucia|Freya|Maya|Olive|Penny|Tess|Willow|Ada|Edith|Marta|Fern|Bella|Sofia"},
    {"beast", "fox|rabbit|bear|mouse|squirrel|hedgehog|badger|otter|mole|cat|puppy|beaver|raccoon|hamster|kitten|weasel|hare|dormouse|wolf cub|lion cub"},
    {"elder_m", "{his} grandfather|the old baker|the miller|old Mr. {surname}|the gardener|{his} uncle|the fisherman|the clockmaker|the shepherd|the old tortoise|the postman"},
    {"elder_f", "{his} grandmother|the old teacher|the weaver|old Mrs. {surname}|the beekeeper|{his} aunt|the ferrywoman|the toymaker|the doctor|the wise old owl|the librarian"},
    {"surname", "Brown|Appleby|Green|Winter|Potter|Finch|Bell|Miller|Marsh|Wood|Penrose|Carter|Thorn|Hill"},
    {"he", "{he_{sex}}"}, {"him", "{him_{sex}}"}, {"his", "{his_{sex}}"}, {"self", "{him_{sex}}self"},
    {"he2", "{he_{sex2}}"}, {"him2", "{him_{sex2}}"}, {"his2", "{his_{sex2}}"},
    {"he3", "{he_{sex3}}"}, {"him3", "{him_{sex3}}"}, {"his3", "{his_{sex3}}"},
    {"he_m", "he"}, {"he_f", "she"}, {"him_m", "him"}, {"him_f", "her"}, {"his_m", "his"}, {"his_f", "her"},
    {"child_m", "boy"}, {"child_f", "girl"}, {"hands", "{hands_{kind}}"}, {"hands_c", "hands"}, {"hands_a", "paws"},
    {"a_hero", "{a_hero_{kind}}"}, {"a_hero_c", "a {nice} {child_{sex}} {named} {hero}"}, {"a_hero_a", "a {nice} {animal} {named} {hero}"},
    {"a_friend", "{a_friend_{kind2}}"}, {"a_friend_c", "a {child_{sex2}} {named} {friend}"}, {"a_friend_a", "a {animal2} {named} {friend}"},
    {"named", "named|called"}, {"by", "by|near|close to|not far from"},
    {"nice", "little|young|kind|cheerful|clever|quiet|curious|brave|gentle|lively|small|shy|merry|careful|funny|dreamy"},
    {"small", "small|quiet|sleepy|pretty|tiny|sunny|windy|little|old"},
    {"glad", "happy|glad|proud|pleased|cheerful|merry"},
    {"sad", "sad|unhappy|close to tears|very sad|gloomy|sorry"},
    {"tired", "tired|sleepy|worn out|hungry and tired|cold and tired"},
    {"went", "went|ran|hurried|walked|skipped|marched|set off"},
    {"soon", "soon|before long|after a while|a little later|at last|in no time"},
    {"hero_said", "said {hero}{how}"}, {"friend_said", "said {friend}{how}"}, {"helper_said", "said {helper}{how}"}, {"said", "said|said|whispered|answered"},
    {"how", "||||| quietly| softly| at once| kindly| with a smile| after a while| in a low voice| and {smiled}| and looked up| and sat down| very slowly| with big eyes| and took a bite of {bite}"},
    {"cried", "cried|called|shouted"}, {"smiled", "smiled|laughed|grinned|nodded"},
    {"big", "big|huge|great|tall|heavy"}, {"tree", "oak|pine|birch|apple|willow|chestnut|maple|cherry"},
    {"count", "two|three|four|five|six|seven|eight|nine|ten|a dozen|twenty"},
    {"things", "{things_{season}}|white clouds|chimneys|cows|crows|fence posts|puddles|carts|cats|smooth stones|doves|goats|old men|children|windows|donkeys"},
    {"things_1", "lambs|snails|ducklings|yellow flowers|bees|nests|swallows"}, {"things_2", "boats|beetles|butterflies|bees|frogs|haystacks|ants"},
    {"things_3", "red leaves|mushrooms|geese|apples|pumpkins|acorns|scarecrows"}, {"things_4", "snowflakes|icicles|snowmen|footprints in the snow|sparrows|sleds"},
    {"when", "one [morning|day|afternoon|evening] in {month_{season}}|one {sky_{season}} [morning|day|afternoon]|on a {sky_{season}} {season_{season}} day|"
             "one day, when {weather_{season}},"},
    {"season_1", "spring"}, {"season_2", "summer"}, {"season_3", "autumn"}, {"season_4", "winter"},
    {"month_1", "March|April|May"}, {"month_2", "June|July|August"}, {"month_3", "September|October|November"}, {"month_4", "December|January|February"},
    {"sky_1", "fresh|bright|mild|rainy|sunny"}, {"sky_2", "hot|warm|bright|sunny|clear"}, {"sky_3", "windy|misty|golden|grey|cool"}, {"sky_4", "cold|snowy|frosty|icy|dark"},
    {"weather_1", "the first flowers were out|the birds were building nests|the rain had just stopped|the fields were turning green|the snow had melted"},
    {"weather_2", "the sun was high|the bees were busy|the air smelled of hay|it was too hot to sleep|the berries were ripe"},
    {"weather_3", "the leaves were red and gold|the wind was strong|the apples were ripe|the fog lay on the fields|the swallows were leaving"},
    {"weather_4", "the snow was deep|the lake was frozen|the wind was icy|the roofs were white|the stars were very bright"},
    {"greeting", "\"Good {daytime}!\"|\"Hello!\"|\"Hello there!\"|\"What a nice surprise!\""}, {"daytime", "morning|day|afternoon|evening"},
    {"along", "on the way {he} counted {count} {things}.|{he} saw {count} {things} [on the way|and waved at them|and stopped to look].|"
              "the [road|path] was [long|steep|muddy|narrow|dusty], but {he} {sang_walk}.|a {bird} was singing in [the|an old] {tree} tree.|"
              "{he} [ate|gave a {bird}] [an apple|a pear|a piece of {bite}|the last crumbs] from {his} pocket.|"
              "there were {count} {things} by the [gate|road|river|bridge|wall], and {he} [had to smile|knew every one|stopped to say hello].|||"},
    {"aside", "a {bird} sat in the {tree} tree and [watched|sang|listened].|from far away came the sound of [a bell|a horn|a train|the sea|a saw].|"
              "{count} {things} [were the only ones who saw it|could be seen from there].|for lunch they had {food}.|the air was [a little cold|warm|very still|fresh] and smelled of {food}.|"
              "they sang a song about {count} {things}.|{friend} told a joke about {count} {things}, and they both laughed.|the hours went by like minutes.|||"},
    {"sang_walk", "sang a [merry|little|silly] song|did not mind|walked on|kept going|hummed all the way"},
    {"bite", "cake|bread|apple pie|cheese|plum tart|corn bread|chocolate|gingerbread"}, 
    {"food_one", "cake|apple pie|melon|loaf of sweet bread|pumpkin pie|chocolate cake|cheese|nut cake"},
    {"sweet", "berries|nuts|plums|cherries|jam buns|ginger biscuits|toffees|pears|figs|sugar mice|apricots"},
    {"breath", "took a deep breath|closed {his} eyes for a moment|stood up straight|swallowed hard"}, {"took_hand", "took {him} by the hand|sat down beside {him}|put an arm around {him}"},
    {"old_trouble", "had a bad back|was not so young any more|lived all alone|had been ill all {season_{season}}|had nobody to help {him3}|could not see so well any more"},
    {"bird", "robin|sparrow|blackbird|crow|lark|cuckoo|pigeon|magpie|wren|starling"},
    {"likes", "{he} [liked|loved] {hobby} [more than anything|best of all|every day|and {hobby}].|{he} had a {colour2} [coat|hat|scarf|bag|jumper|cap] and was never without it.|"
              "everyone [there|in that place] knew {him}, because {he} was always [singing|asking questions|laughing|running|helping|busy].|"
              "{he} lived [there|in a room under the roof|in a {small} house with a {colour2} door] with {his} [mother|father|mother and father|grandmother|{count} brothers and sisters].|"
              "{he} could [run|climb|count|draw|cook|swim] very well, but {he} could not [whistle|wait|keep a secret|sit still|sleep late] at all.|"},
    {"hobby", "climbing trees|drawing|telling stories|looking at the stars|collecting stones|singing|baking|making things out of wood|swimming|reading|watching clouds|jumping over puddles|"
              "digging in the garden|listening to the rain|counting things|playing by the river"},
    {"start", "once upon a time, in {home}, there [lived|was] {a_hero}.|there was once {a_hero} who lived in {home}.|in {home} lived {a_hero}.|"
              "{hero} was {a_{kind}} who lived in {home}.|long ago, in {home}, there [lived|was] {a_hero}."},
    {"a_c", "a {nice} {child_{sex}}"}, {"a_a", "a {nice} {animal}"},
    {"evening", "evening|Sunday|afternoon|Saturday|Monday"}, {"things_dug", "potatoes|bones|spoons|boots|bottles|roots"},
    {"night", "that [night|evening], {hero} [slept well|fell asleep with a smile|dreamed of it|told {his} mother all about it|lay in bed and listened to the [wind|rain|crickets|quiet house]].|"
              "when the [moon came up|stars came out|sun went down], {they} were still [talking|laughing|singing|sitting together].|"
              "then {they} [went home|ate {food}|drank warm milk] [together|and were happy|and went to bed].|"
              "from that day on, {hero} and {friend} were [the best of friends|always together|like one family].|"
              "and if you {pass} that way, you may [still hear them laugh|see them there|meet them one day].|and that was the end of a [long|good|very good|strange and lovely] day."},
    {"pass", "walk|come|pass|ever go"}, {"they", "they|{hero} and {friend}|all of them"},
    {"thanked", "\"thank you,\" {said} {hero}.|\"thank you so much!\" {cried} {hero}.|{hero} [thanked {him2} with all {his} heart|said thank you {count} times|gave {him2} a hug]."},
    {"worry", "{hero} did not know what to do.|{he} sat down and {thought}.|{he} [felt|was] {sad}.|a tear [ran|rolled] down {his} nose.|\"oh no!\" {cried} {hero}.|\"what shall I do now?\" {he} [asked|said to {self}]."},
    {"thought", "thought [for a while|hard|and thought|about it]"},
};

static const Plot PLOTS[] = {
{"[The Lost {toy}|Where Is the {toy}?|{hero} and the Lost {toy}]",
R"({start} {likes} [{hero} owned a {colour} {toy}|{his} best thing was a {colour} {toy}]. [It was a gift from {helper}.|{helper} had made it for
{him}.|{he} took it everywhere.]

{when} the {toy} was gone. {hero} looked [in every room|in all {his} boxes|under the table], [but it was not there|but {he} found only {count} buttons
and an old shoe]. {worry}

{along} [At the gate|By the {place}|On the road] {he} met {a_friend}. "[Why are you so sad|What is the matter|What are you looking for]?" asked
{friend}. "[I have lost my {toy}|My {colour} {toy} is gone]," {hero_said}. "[Then let us look for it together|Two can look better than one|I will help
you]," {friend_said}.

They looked [by the {place}|behind every door|in the long grass]. They asked {helper}, but {he3} [had not seen it|only shook {his3} head|was asleep].
"[Where did you play with it last|Think back: where were you yesterday]?" asked {friend}. {hero} [closed {his} eyes and thought|thought about it for a
long time]. "[I know|Now I remember]!" {he} {cried}. "[I left it|It must be|I was] {spot}!"

They {went} there as fast as they could. And there, {spot}, [was the {toy}|lay the {colour} {toy}, [a little wet|a bit dusty], but whole]. {hero} was
so {glad} that {he} [jumped up and down|danced|gave {friend} a hug]. {thanked} [From then on, {he} always put the {toy} back in its place.|"Next time
I will take better care of it," {he} said.|After that, they played with it together every day.] {night})"},

{"[A New Friend|{hero} Finds a Friend|The New {child_{sex2}} from the {place}]",
R"({start} {likes} But {hero} was [often alone|a little lonely], [because there was no one to play with|for all the others were much older].

{when} {a_friend} came to live [next door|by the {place}|across the road]. {hero} [watched|looked on] from [the window|behind a {tree} tree|the gate].
[{he} wanted to say hello, but {he} was too shy.|What if {friend} did not like {him}?|{count} times {he} opened {his} mouth, and {count} times {he}
shut it again.] "[Just go and say your name|Take {him2} something nice|A smile is a good start]," {helper_said}.

So {hero} took [a {colour} {toy}|some {food}|a {gift}] and {went} to the door. {along} {his} heart [beat like a drum|went thump, thump, thump].
[Knock, knock!|{he} knocked {count} times.|{he} rang the bell.] {friend} looked out. {greeting} {friend_said}. "[Who are you|Did you come to see me]?"
"I am {hero}," {he} whispered. "[I brought you this|This is for you]."

{friend} {smiled}. "[I did not know anyone here|I was lonely too|I hoped that someone would come]," {he2} said. They [ate|shared] the {food}, and then
they [built a house out of leaves|played with a {toy}|went to the {place}|counted the {things}|drew pictures of {things}] until [it was
dark|supper|the sun went down].

"[Will you come again tomorrow|Shall we play again]?" asked {friend}. "[Yes|Of course|Every day]!" {hero_said}. [It is hard to say the first word, but
it is worth it.|A friend is sometimes only one hello away.|And {hero} was not lonely any more.] {night})"},

{"[{hero} and the Fear|{hero} Is Not Afraid|How {hero} Was Brave]",
R"({start} {likes} There was only one thing {he} did not like, and that was {fear}. [When {he} thought of {fear}, {his} knees shook.|{he} never told
anyone about it.|Everyone knew it, and some laughed.]

{when} {his} friend {friend} [did not come home|had lost {his2} way by the {place}|called for help from the {place}]. "[Who will go and look|Who can
help {him2}|Is there nobody who dares to go]?" asked {helper}. {hero} [looked at {his} {hands}|felt cold all over]. To get there, {he} had to face
{fear}.

"[I am afraid|I cannot do it]," {hero_said}. {helper} {took_hand}. "[To be brave does not mean that you have no fear|Everyone is afraid of
something]," {he3} said. "[It means that you go anyway|The fear gets smaller when you walk towards it|Take one small step, and then one more]."

So {hero} {breath} and [set off|went on {his} way]. {along} [{he} counted to {number}.|{he} sang as loudly as {he} could.|{he} held a {gift} tight in
{his} {hands}.] [With every step {his} fear grew smaller.|It was not as bad as {he} had thought.|{his} heart beat fast, but {he} did not turn back.]
{soon} {he} heard {friend}. "[I am here!|Is that you, {hero}?]" {cried} {friend}. "[Give me your hand|Do not worry, I have come for you],"
{hero_said}.

Together they {went} home. Everyone [cheered|clapped], and they all ate {food}. "[Were you not afraid|How did you do it]?" they asked. "[I was afraid,
but {friend} needed me|Yes, but only at first|I took one step, and then one more]," said {hero} and {smiled}. {night})"},

{"[The Last Piece|{hero} Learns to Share|Enough for {number}]",
R"({start} {likes} {when} {hero} got [a whole {food_one}|a basket of {sweet}|a big bag of {sweet}] from {helper}. [It smelled wonderful.|{he} had
never had anything so good.] "[It is all mine|I will eat it all alone]," thought {hero}, and {he} hid it {spot}.

{soon} {a_friend} came by. "[What do you have there|What smells so good]?" asked {friend}. "Nothing," {hero_said}, and {his} ears turned red. {friend}
[looked sad|said nothing|sighed] and went away. {hero} began to eat. {he} ate and ate, but [it did not taste so good any more|{he} was not happy|{his}
belly began to hurt].

{worry} [{helper} saw {him} and sat down beside {him}.|Then {helper} came along.] "[A thing that you share is only half as big, but twice as
sweet|There is no joy in a feast for one|Good things grow when you share them]," {helper_said}.

{hero} thought about that. Then {he} took what was left and {went} to find {friend}. {along} {friend} was [sitting {spot}|at the {place}|throwing
stones at a tin can]. "[I am sorry|I was not kind to you]," {hero_said}. "[Half of it is yours|Please have some|This piece is the biggest, and it is
for you]."

{friend} {smiled}. "[It is very good|I have something too]," {he2} said and [took {count} {sweet} out of {his2} pocket|gave {hero} a {colour} marble].
[They shared everything, down to the last crumb.|They ate {count} {sweet} each.|Soon there was nothing left but {count} crumbs.] [It was the best meal
of {his} life.|{hero} had less than before, but {he} was much happier.] {night})"},

{"[The Big Storm|The Night of the Storm|{hero} and the Storm]",
R"({start} {likes} {when} the sky turned [black|dark grey|as dark as night]. "[A storm is coming|We must hurry]," {helper_said}. [The wind began to
blow.|The {tree} trees bent low.|The {bird}s were all silent.] {hero} and {friend} were far from home, [by the {place}|looking for
[berries|feathers|nuts|round stones|mushrooms|a lost {toy}]].

[First came {count} drops, and then it poured.|The rain fell like a wall.] Thunder [rolled|rumbled|crashed] over the {place}. "[I am afraid|I want to
go home]," {friend_said}. {hero} was afraid too, but {he} took {friend} by the hand. "[Look, there is a light|I know a dry place|Quick, into the old
mill]!" {he} {cried}.

[They ran and ran.|How they ran!|They ran through {count} puddles.|Their shoes were full of water.] {soon} they came to [a small hut|a cave|an empty
barn|the old mill]. Inside it was dry, and [it smelled of hay|there was a {small_animal} that was afraid of the storm as well|{count} {things} were
already there]. "[Come closer|Let us keep each other warm]," {hero_said}. They shared a piece of {bite} and told each other [funny
stories|riddles|what they liked best: {hobby}]. [They counted the time between lightning and thunder: {number}, and then more and more.|Each time it
thundered, they sang louder.]

[In the morning the storm was over.|When they woke up, the storm was over.|The storm went on for {number} hours.|At sunrise the wind grew still.] [The
sun came out, and there was a rainbow over the {place}.|Every leaf was shining.|The air was fresh and clean.] But the wind had [broken the fence|blown
the roof off the shed|knocked over a {tree} tree]. {helper} had looked for them all night. "[There you are|I was so worried about you]!" {he3} {cried}
and hugged them both. Then everyone helped to [mend the roof|clean up|build a new fence], and the work was soon done. [After the rain comes the sun.|A
storm is only half as bad when you are together.] {night})"},

{"[A Helping Hand|{hero} Helps|The {gift}]",
R"({start} {likes} [Near {him}|At the end of the road] lived {helper}, who {old_trouble}. {when} {hero} saw {him3} trying to {chore}. [It was too hard
for {him3}.|{he3} had to stop again and again.] "[May I help you|Shall I do that for you]?" asked {hero}.

"[That is kind of you|But you are so small]," {helper_said}. "[I am stronger than I look|Small {hands} can do a lot]," {hero_said}. {he} began to
{chore}. It took [all day|a long time|{number} hours]. {aside} When {friend} came by, {he2} asked, "[Do you not want to come and play|Why do you work
so hard]?" "[First I want to finish this|Come and help us, then we will all play]," {hero_said}. {friend} [thought about it and took off {his2}
coat|{smiled} and helped too].

{soon} everything was done. {helper} was very {glad}. {he3} gave them {food} and told them about the time when {he3} was young. Then {he3} went to an
old box and took out a {colour} {gift}. "[This is for you|I have kept it for someone like you]," {he3} said. {hero} [turned red|shook {his} head]. "[I
did not do it for a gift|I only wanted to help]," {hero_said}. "[I know|That is just why you shall have it]," {helper_said}.

{hero} kept the {gift} all {his} life. [Whenever {he} saw it, {he} thought of {helper}.|When you help others, you are never alone.|And every
[Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday] they went back to help again.] {night})"},

{"[The Broken {toy}|{hero} Mends the {toy}|Glue and Patience]",
R"({start} {likes} {friend} had a {colour} {toy} and let {hero} play with it. "[Please be careful|It is my best thing]," {friend_said}. But {when}
{hero} was too wild, and [crash|bang|oh dear], the {toy} fell down. It was broken into {number} pieces.

{worry} {hero} wanted to hide it {spot}. [Nobody had seen it.|Perhaps nobody would ever know.] But {his} heart felt as heavy as a stone. {along} So
{he} {went} to {helper}. "[I have broken it|I did something bad]," {hero_said}. "[Everybody breaks something once|A thing that is broken can often be
mended]," {helper_said}. "[But first you must tell {friend} the truth.|Will you tell {friend}, or shall I?]"

{hero} {breath}. "[I broke your {toy}|It was me], and I am very sorry," {he} told {friend}. {friend} was {sad}, but {he2} said, "[Thank you for
telling me|I am glad that you told me the truth]." Together they [brought|took] all the pieces to {helper}. They used [glue and string|a hammer and
{count} small nails|wood, wire and {colour2} paint]. [It was slow work.|They worked until [noon|sunset|supper|late at night].|It took {number} days.]
"[Not so fast|Wait until it is dry|Slow and steady]," {helper_said}.

{soon} the {toy} was whole again. It had a {colour2} [line|stripe|patch] on one side, where it had been broken. "[Now it looks even better|I like it
more than before|It has a story now]," {friend_said}. [The truth can mend more than glue.|{hero} was careful from then on, most of the time.|And
{hero} felt as light as a feather.] {night})"},

{"[The Great Race|{hero} and the Race|Who Will Win?]",
R"({start} {likes} Every {season_{season}} there was a great race [around the {place}|from the {place} to the bridge|through the {place}]. The [first
prize|prize] was a {colour} {gift}. {hero} wanted to win it. {he} [ran|trained] every day, [up the hill and down again|in sun and rain|{number} times
around the {place}].

"[You will never win|I am the fastest of all]," said {friend}, who [had won {number} times|had very long legs]. {hero} said nothing. {when} it was
time. [All the runners|The runners, big and small,|{number} runners] [stood in a row|were at the start|hopped up and down]. "[Ready, steady, go|One,
two, three, run]!" {cried} {helper}.

{friend} was in front. {hero} came next, then [all the rest|a long line of others|a {animal2} in a {colour2} shirt]. {along} They ran past the {tree}
tree and over the bridge. Then {friend} [fell over a root|slipped in the mud|stepped into a hole]. "[Ouch, my leg|Oh no]!" {cried} {friend}. Now
{hero} could win! {he} could see the [finish|ribbon] already. But {he} stopped. "[Are you hurt|Can you stand up]?" {he} asked. "[Go on, you can win|Do
not wait for me]," {friend_said}. "[A race is not as important as a friend|There will be another race]," {hero_said}. "[Lean on me|Come, take my
arm]."

[So the two came in last, arm in arm.|They were the last of all, {number} minutes after the winner.|Slowly, step by step, they came to the end
together.] But everyone [cheered|clapped for them] more than for the winner. "[I was not kind to you, and I am sorry|I will never laugh at you
again]," {friend_said}. {helper} gave them {food} and said, "[You did not win the race, but you won a friend|Today I saw two winners]." {night})"},

{"[The Wish|{hero} Makes a Wish|The Wishing {small_animal}]",
R"({start} {likes} {hero} had one great wish: {he} wanted to {wish}. [{he} thought of it by day and dreamed of it by night.|{he} told everyone about
it.] "[That cannot be|What a funny wish]," {friend_said}. {when} {hero} found a {small_animal} {spot}. It was caught in [a net|a thorn bush|some old
wire]. {hero} set it free with careful {hands}.

"[Thank you|You are kind]," {said} the {small_animal}. {hero} could not believe {his} ears. "[You can talk|Did you say something]?" {he} asked. "[Only
today|Only to those who help|Yes, and I can do more than that]," {said} the {small_animal}. "[You have one wish.|I will give you one wish.|One wish is
yours, {hero}, and only one.] [Think well before you speak|Choose with your heart]."

{hero} wanted to say, "I want to {wish}!" But then {he} thought of {helper}, who {old_trouble}. {aside} {he} {thought}. "[My wish is for {helper}|I
wish that {helper} may be well and happy]," {he} said at last. The {small_animal} looked at {him} for a long time and then [was gone|went its
way|blinked {count} times].

When {hero} came home, {helper} was [singing|dancing in the kitchen|as well as could be]. "[I feel so young today|Something wonderful has happened]!"
{he3} {cried}. {hero} only {smiled}. [And that night {he} had a dream.|In the night {he} dreamed of the {small_animal}.|But when {he} slept, a dream
came to {him}.] [In the dream|There] {he} could {wish}, and it was even better than {he} had thought. {night})"},

{"[The Secret Garden of {hero}|Behind the {colour} Door|The Garden]",
R"({start} {likes} Not far from the {place} there was a high wall. [Nobody knew what was behind it.|"There is nothing there," said {helper}.] {when}
{hero} and {friend} played ball, and the ball flew over the wall. [They looked for a way in.|They walked along the wall, {number} steps, and then
{count} more.|How could they get it back?] Under the leaves they found a little {colour} door. [It was locked, but the key lay {spot}.|{friend}
pushed, and it opened with a long creak.]

[Inside was an old garden.|Behind it was a garden.|They stood in a garden with {count} {tree} trees.] [Everything was dry and brown.|There were thorns
everywhere.|It was very still, and only a {bird} was singing.] "[How sad it looks|Once it must have been lovely]," {friend_said}. "[Let us make it
green again|It can be our secret]," {hero_said}. [Every day they came back.|They came back {count} times a week.|After that they came every
{evening}.] They pulled up the weeds, dug the earth and planted {plant}. {aside} They carried water, {number} buckets each day.

For a long time nothing [grew|happened]. "[Perhaps it is too late|We should give up]," {friend_said}. "[Let us wait one more week|A seed needs time],"
{hero_said}. And one morning there was [a tiny green leaf|one small green tip]. The next day there were {count}, and {soon} the garden was full of
{plant}. [The bees came|The butterflies came], and the {bird}s built {count} nests.

One day {helper} stood at the door and [wiped {his3} eyes|could not speak]. "[This was my garden when I was young|I planted that {tree} tree when I
was your age]," {he3} said. "[I could not look after it any more|I thought that it was dead]." "[Then it is our garden now, for all three of us|Come
in and sit with us]," {hero_said}. [With time and care, almost everything can grow.|A secret is nicest when it is shared.] {night})"},

{"[The Little {small_animal}|{hero} and the {small_animal}|A Home for the {small_animal}]",
R"({start} {likes} {when} {hero} heard a small cry. It came from [a ditch|a bush|somewhere above {him}|the side of the road]. There sat a little
{small_animal}, [all alone|cold and hungry|with a hurt foot|wet and afraid]. "[Poor little thing!|Where is your mother?]" {hero_said}. {he} [wrapped
it in|put it under] {his} {colour2} coat and [took it home|carried it home]. [It weighed no more than [an apple|a feather|a piece of {bite}|a wet
sock].|Its heart went tick, tick, tick.|]

"[It is too small to be alone|It needs milk and a warm bed]," {helper_said}. So {hero} made a bed [out of hay|in a shoe box|from an old jumper]. {he}
fed it {count} times a day, and {friend} came to help. They called it {pet}. {aside} {soon} {pet} was [fat and round|strong and quick|able to follow
them everywhere]. It slept [on {hero}'s feet|under the stove] and ate [{food}|all the crumbs|out of {his} {hands}].

But one evening {pet} sat at the window and looked out at the woods. "[It wants to go home|It hears the others calling]," {friend_said}. {hero} was
{sad}. "[But I love {pet}|It can stay here with us]," {he} said. {helper} {took_hand}. "[If you love it, you must let it choose|The door must be
open]," {he3} said.

The next morning they went to the woods. {hero} put {pet} down. It [took {count} steps and looked back|stood still for a moment]. "[Go on, little
one|Be well, {pet}]," said {hero} softly. [And then it was gone.|Then it disappeared behind a {tree} tree.|It did not turn around again.] {hero} was
{sad} for {number} days. [But when the next spring came, there was a noise at the door.|Then, {number} weeks later, something scratched at the
door.|But one {evening} {friend} called {him} to the window.] There stood {pet}, and with it came [two|three|four|five|six] little ones! "[You came
back|Look, {friend}, look]!" {cried} {hero}. {night})"},

{"[The Map in the Attic|The Treasure of the {place}|{hero} Finds a Map]",
R"({start} {likes} {when} {hero} found an old map [in a book|in the attic|inside a {colour} bottle|{spot}]. There was a {colour2} cross on it, right
next to the {place}. "[A treasure map!|Do you know what this is?]" {he} {cried}. {friend} came [running|at once|as fast as the wind]. "[Let us go and
dig|Let us take {food} and go]," {friend_said}.

They packed [a spade, a rope and a lamp|{food} and {count} apples] and set off. The map said: walk {number} steps from the {big} {tree} tree, and then
turn to the [left|right]. {along} [First they came to a {small} bridge.|They crossed a stream on {count} stones.|Twice they lost the way.] {friend}
was {tired}. "[Is it still far?|What if the map is wrong?]" {he2} asked. "[Only a little more|We are nearly there]," {hero_said}.

{soon} they found the place and began to dig. [They dug and dug.|They dug until their {hands} hurt.|They dug up {count} old {things_dug}.]
[Clonk|Bump|Clack]! There was a {small} box. [Their {hands} shook when they opened it.|It took both of them to open it.|"You open it," said {friend}.]
[But inside there was no gold.|There was no gold in it, and no silver.|But where was the gold?] There was only a {colour} {toy}, and a letter. It
said: "[Who finds this is as curious as I was|I was happy here when I was young]. [Put in something of your own and hide it again|The best treasure is
a friend to dig with]." And under it stood the name of {helper}!

They ran [back|home] to {helper} and showed {him3} the letter. {he3} laughed until {he3} had to sit down. "[I had forgotten all about it|I was just
your age when I wrote that]," {he3} said. {hero} put in a {gift}, and {friend} put in {count} marbles. Then they hid the box again, [for the next one
who comes|{spot}|deeper than before]. {night})"},

{"[The Song of {hero}|The Shy Singer|{hero} Sings]",
R"({start} {likes} {hero} could sing so well that even the {bird}s were quiet. But {he} only sang when {he} was alone, [by the {place}|{spot}]. [If
anyone looked at {him}, not one note came out.|{he} was much too shy.]

{when} there was to be a feast, with music and {food}. "[Who will sing for us|Is there anyone who can sing|And who is going to sing]?" asked {helper}.
{friend}, who had heard {hero} behind a {tree} tree, {cried}, "[{hero} can do it|I know someone]!" {hero} turned [red|as red as a tomato|pale]. "[I
cannot sing in front of people|They will laugh at me]," {hero_said}.

"[Then sing only for me|Look at me and forget the others]," {friend_said}. [So they practised.|And so it began.|{hero} thought about it, and said
yes.] On the first day {hero} sang to {friend}. On the second day {he} sang to {count} [sheep|ducks|cows|hens|geese|donkeys]. On the third day {he}
sang to {helper}, who [forgot to drink {his3} tea|wiped {his3} eyes]. {aside}

[Then came the evening.|At last it was time.|On the evening of the feast {hero} could not eat.] {count} lamps were burning, and [everyone was
there|all the benches were full]. {hero} {breath}. {his} voice was as [small|thin] as a [mouse|thread|needle|grain of sand] at first. But {friend}
[smiled|nodded] at {him}, and the song grew. It was a song about [the sea|the moon|a {bird} that looked for its home|{season_{season}}|{things} and
stars]. When it was over, [nobody said a word|it was very quiet]. And then they all [cheered|clapped and clapped]. "[Once more|Sing it again]!" they
{cried}. [A song is like bread: it is there to be shared.|And {hero} was shy no more, or only a little.] {night})"},

{"[The Snow {child_{sex2}}|The First Snow|Snow on the {place}]",
R"({start} {likes} [One winter morning everything was white.|{when} {hero} looked out of the window and could not see the {place}.|One morning it was
very quiet outside.] "[Snow|It has snowed all night]!" {cried} {hero}. {he} put on {his} {colour2} [boots|coat|mittens|cap] and {went} outside.
{friend} was already there. They threw snowballs, {number} each, and slid down the hill on [a sled|an old tray|a wooden board|a big spoon]. {aside}

[Then they built a snowman.|Next they built a snowman as tall as {helper}.|It took them {number} hours to build a snowman.] They gave him [a carrot|a
red pepper] for a nose, {count} [stones|nuts|pieces of coal|pine cones] for buttons and a {colour} hat. "[He looks like {helper}|He needs a name],"
said {friend} and {smiled}. "[He is all alone out here|He must be cold]," said {hero} in the evening. So {he} [gave him {his} own scarf|put a {gift}
into his arms].

[At midnight there was a knock at the window.|That night {hero} woke up, for somebody was tapping at the window.|When the clock struck twelve, the
door opened.] "[Thank you for the scarf|It is a fine night]," said the snowman. He took {hero} and {friend} by the hand, and they flew over the
{place}, over the roofs and over the sea. They saw {count} [sleeping villages|whales|bridges|wild geese|forests|ice bears], and a ship with {number}
lights. "[How long will you stay|Will you be here tomorrow]?" asked {hero}. "[Until the spring|As long as it is cold]," said the snowman. "But [every
year, when the first snow falls|every winter|when it snows again], [you can build me again|I will come back to you]."

When the spring came, there was only [a puddle|a {colour} hat in the grass|a carrot on the ground]. {hero} was {sad} at first. But {he} kept the hat
{spot}, and [waited for the winter|knew what to do]. {friend} {said}, "[Nothing is lost that you can remember|He has only gone to the north]." And
when the first flakes fell again, the two friends [ran out of the door|looked at each other and {smiled}].)", "4"},

{"[The Kite in the Tree|{hero}, {friend} and the {tree} Tree|All Together]",
R"({start} {likes} {when} {hero} let {his} {colour} kite fly by the {place}. It flew [higher than the birds|over {count} roofs|up to the clouds]. But
then [the wind turned|the string broke|a gust came], and the kite was caught at the very top of [an old|a tall] {tree} tree.

{hero} [jumped|threw stones|shook the tree], but it did not help. {worry} {soon} {a_friend} came by. "[I can climb|Let me try]," {friend_said}.
{friend} climbed {number} branches high, but [the next one was too thin|then {he2} grew dizzy]. "[I am too heavy|I cannot get any higher]," {he2}
{cried}. {along} {helper} came with a ladder, but it was too short. A {bird} flew up and pulled at the string, but it was too weak.

"[Each of us alone can do nothing|We must do it together]," {hero_said}. "[Listen, I have a plan|This is what we will do]." {helper} held the ladder.
{friend} stood on the ladder, and {hero} climbed on {friend}'s shoulders. [The {bird} lifted the last loop of string.|With a long stick {he} could
just reach the tail.|{he} stretched as far as {he} could.] "[A little more to the left|Nearly, nearly]!" {friend} {cried}. And down came the kite,
[with {count} leaves in its tail|with a small hole in it|right onto {helper}'s hat].

They all laughed. "[None of us could do it, but all of us could|Together we are as tall as a tree]," {helper_said}. Then [everyone flew the kite
once|they flew the kite until [sunset|supper|they were hungry]|{friend} tied a new string to it]. {night})"},

{"[The Light in the {place}|{hero} and the Lantern|One Little Light]",
R"({start} {likes} {hero} and {his} mother looked after {number} [sheep|goats|geese]. {when} {hero} counted them at the gate: one was missing. [{he}
counted again, but it was still one too few.|It was the smallest one, {pet}.] "[It will come back in the morning|It is too dark to look for it now],"
{helper_said}. "[But {pet} is afraid at night|I cannot sleep if {pet} is out there]," {hero_said}.

So {he} took [a lantern|an old lamp] and [went|hurried|ran] out. {along} The light was small, and the night was big. [A {bird} called from a {tree}
tree.|Something moved by the road, but it was only a {small_animal}.|The wind nearly blew out the light.] At the {place} {he} met {friend}, who had
lost {his2} way. "[Thank goodness, a light|I thought that I was all alone]!" {friend_said}. "[Come with me, we will look together|Hold on to my
coat]," {hero_said}.

They called {pet} {count} times. They listened. Far away there was [a thin, sad cry|the sound of a little bell]. They {went} towards it and found
{pet} [between two rocks|in a thorn bush|in a ditch]. {hero} took it in {his} arms. "[Now all is well|You silly thing]," {he} said. But which was the
way home? Everything looked the same. Then {friend} [pointed|gave a shout]. On the hill there was another light, and next to it {count} more. {helper}
and all the others had come to look for them!

"[I was angry, but I was afraid for you|You should not have gone alone]," said {helper} when they were home. "[But without your light nobody would
have been found|You have a good heart, {hero}]." [One little light is enough to begin with.|{pet} slept next to {hero}'s bed that night.] {night})"},

{"[Salt and Sugar|{hero} Bakes a Cake|The Birthday of {friend}]",
R"({start} {likes} The next day was the birthday of {friend}. "[I will bake a cake, all by myself|A cake is the best present of all]," {hero_said}.
{when} {he} [got up before anyone else|tied on a {colour} apron]. {he} took flour, {number} eggs and butter. {he} took [a cup|{count} spoons] of sugar
from the {colour2} jar. {he} stirred it {count} times and put it in the oven. [It smelled so good!|The whole house was warm.]

But when {he} tasted it, {hero} [made a face|had to cough]. It was not sugar. It was salt! {worry} "[Nobody will eat that|I have spoiled everything],"
{hero_said}. {aside} {hero} thought, "[I will say that the oven did it|I will say nothing and go home]." But that did not feel right.

So {he} {went} to {friend} with the cake in {his} {hands}. "[Happy birthday|Many happy returns]," {he} said. "[I wanted it to be the best cake in the
world, but I mixed up salt and sugar|I made a mistake, and now it tastes of the sea]." {friend} took a very small bite. {he2} [opened {his2} eyes
wide|turned green]. Then {he2} began to laugh, and {hero} laughed too, until [they fell off their chairs|{helper} came to see what was the matter].

"[When I was young, I put soap into the soup|My first cake was as hard as a stone]," {helper_said}. "[Come, we will bake a new one|There is still
time]." So the three of them baked together, and this time everyone tasted the sugar first, just to be sure. They gave the first cake to [the goats of
the miller|{count} sheep], who liked salt. [Mistakes taste better when you laugh about them.|It was the best birthday {friend} had ever had.]
{night})"},

{"[The Boat of {hero}|Down the River|A Boat for Two]",
R"({start} {likes} {hero} wanted to see where the river ended. "[It ends in the sea|It goes on for ever|Nobody knows]," {helper_said}. "[Then I will
build a boat and find out|I want to see it with my own eyes]," {hero_said}. {when} {he} began. {he} took [{number} boards|an old door|{number}
barrels], {count} nails and a {colour} sheet for a sail. {a_friend} came and asked, "[What will it be|Can I help]?" From then on they were two.

The first boat [sank at once|turned upside down]. The second one [was full of holes|only went in circles]. "[We will never do it|I have had enough
water for today]," said {friend}, wet from head to foot. "[Now we know two ways that do not work|The third one will float]," {hero_said}. And the
third one did. They called it the [Swallow|Brave Duck|Little Wave|North Wind|Morning Star|Silver Fish|Old Boot].

Down the river they went, past the {place} and {count} [villages|bridges|mills|fishermen|islands|swans]. {aside} At night they [slept under the
sail|tied the boat to a {tree} tree] and ate {food}. On the [third|fourth|fifth|sixth] day the river was so wide that they could not see the other
side. The water tasted of salt. "[The sea|So this is where it ends]," {friend_said}. They sat there, very still. {count} ships went by, with white
sails. "[It does not end at all|Look, this is where it begins]," {hero_said}.

Then they turned around, for it was a long way home. {helper} was waiting by the bridge. "[And where does the river end|What did you see]?" {he3}
asked. {hero} gave {him3} a [shell|smooth stone|bottle of sea water]. "[Next time you must come with us|It is too big to tell]," {he} said.
{night})"},
};

// One story. Words chosen with ONCE are remembered in `kept`.
struct Teller {
    Rng &rng;
    std::map<std::string, std::string> kept;

    // The alternatives of "a|b[c|d]|e": split at the bars outside brackets, one of them at random.
    std::string one_of(const std::string &text) {
        std::vector<std::string> choices(1);
        int depth = 0;
        for (char c : text) {
            depth += (c == '[') - (c == ']');
            if (c == '|' && depth == 0) choices.emplace_back();
            else choices.back() += c;
        }
        return choices[rng.below(choices.size())];
    }
    std::string word(const std::string &key) {
        auto known = kept.find(key);
        if (known != kept.end()) return known->second;
        for (const Entry &e : WORDS) if (key == e.key) return fill(one_of(e.choices));
        for (const Entry &e : ONCE) {
            if (key != e.key) continue;
            std::string chosen;
            bool taken;
            do {
                chosen = fill(one_of(e.choices));
                taken = false;
                for (auto &other : kept) taken |= chosen.size() > 1 && chosen == other.second;  // one letter: a switch, not a word
            } while (taken);
            return kept[key] = chosen;
        }
        fail("stories: there are no words for {%s}", key.c_str());
    }
    // Fills every {key} and [a|b] of a text, the innermost last, so that only what is chosen is looked up.
    std::string fill(const std::string &text) {
        std::string out;
        for (size_t i = 0; i < text.size(); i++) {
            if (text[i] != '{' && text[i] != '[') { out += text[i]; continue; }
            char open = text[i], close = open == '{' ? '}' : ']';
            size_t from = ++i;
            for (int depth = 1; depth; i++) depth += (text[i] == open) - (text[i] == close);
            std::string inside = text.substr(from, --i - from);
            out += open == '{' ? word(fill(inside)) : fill(one_of(inside));
        }
        return out;
    }
};

// Single spaces, paragraphs as lines, "an" before a vowel, a capital at the start of every sentence (of every word in a title).
static std::string tidy(const std::string &text, bool title) {
    static const char *const small[] = {"a", "an", "the", "of", "in", "and", "to", "from", "is", "by"};
    std::string out, word;
    bool start = true;
    for (size_t i = 0; i <= text.size(); i++) {
        char c = i < text.size() ? text[i] : ' ';
        if (c != ' ' && c != '\n') { word += c; continue; }
        if (c == '\n') c = ' ';
        bool paragraph = i + 1 < text.size() && text[i] == '\n' && text[i + 1] == '\n';
        if (!word.empty()) {
            size_t last = out.find_last_of(' '), letter = word.find_first_not_of('"');
            std::string before = out.substr(last == std::string::npos ? 0 : last + 1);
            if (letter != std::string::npos && strchr("aeiouAEIOU", word[letter]) && (before == "a" || before == "A" || before == "\"A")) out += 'n';
            if (title) start = out.empty() || std::find(std::begin(small), std::end(small), word) == std::end(small);
            if (start && letter != std::string::npos) word[letter] = (char)toupper(word[letter]);
            if (!out.empty() && out.back() != '\n') out += ' ';
            out += word;
            start = strchr(".!?", word.back()) || (word.back() == '"' && word.size() > 1 && word[word.size() - 2] == '.');
            word.clear();
        }
        if (paragraph) out += '\n', start = true;
    }
    return out;
}

static std::string story(Rng &rng) {
    Teller teller{rng, {}};
    const Plot &plot = PLOTS[rng.below(sizeof(PLOTS) / sizeof(PLOTS[0]))];
    if (plot.season) teller.kept["season"] = plot.season;
    std::string title = tidy(teller.fill(teller.one_of(plot.title)), true);
    return title + "\n" + tidy(teller.fill(plot.text), false) + "\n\n\n";
}

int main(int argc, char **argv) {
    return run_main([&] {
        int64_t bytes, seed;
        std::string out;
        Options options("stories", "writes simple English stories to train a small model on", {
            {"bytes", &bytes, 4000000, 1, 1e12, "size of the text; the last story is completed"},
            {"seed", &seed, 1, 0, 9e15, "the same seed gives the same text"},
            {"out", &out, "", "", "file to write [standard output]"},
        });
        options.parse(argc, argv);
        FILE *file = out.empty() ? stdout : fopen(out.c_str(), "wb");
        if (!file) fail("--out %s cannot be written (%s); pass a file in a folder that exists", out.c_str(), strerror(errno));
        setvbuf(file, nullptr, _IOFBF, 1 << 16);
        Rng rng{(uint64_t)seed, 0, 0};
        for (int64_t written = 0; written < bytes;) {
            std::string text = story(rng);
            if (fwrite(text.data(), 1, text.size(), file) != text.size()) fail("--out %s cannot be written (%s)", out.empty() ? "(standard output)" : out.c_str(), strerror(errno));
            written += text.size();
        }
        if (fflush(file)) fail("--out %s cannot be written (%s)", out.empty() ? "(standard output)" : out.c_str(), strerror(errno));
        return 0;
    });
}
